// A thread of a pool that stops where a part of a picture does not begin at its left edge.

import { parentPort } from 'node:worker_threads';
import '../dist/pool-worker.js';

parentPort.on('message', ({ task, from }) => {
  if (task === 'columns' && from > 0) throw new Error('on purpose');
});
