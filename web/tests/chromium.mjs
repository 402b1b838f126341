// Where a Chromium is: named by CHROMIUM, or installed by a distribution.

import { existsSync } from 'node:fs';

const USUAL = ['/usr/bin/chromium-headless-shell', '/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'];

export const chromiumPath = () => [process.env.CHROMIUM, ...USUAL].find((path) => path && existsSync(path));
