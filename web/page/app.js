// The page: tabs, pictures in, results out. The work itself is done by worker.js.

import { Client, Stopped } from './client.js';

const $ = (id) => document.getElementById(id);
const client = new Client();
const state = { tab: 'classify', picture: undefined, pictureName: '', busy: false, camera: undefined };

/* Messages ---------------------------------------------------------------------------------------------------------- */

function complain(error) {
  if (error instanceof Stopped) return;
  const notice = $('notice');
  notice.textContent = error.message ?? String(error);
  if (error.hint) notice.append(Object.assign(document.createElement('small'), { textContent: error.hint }));
  notice.hidden = false;
}

const calm = () => ($('notice').hidden = true);
const milliseconds = (value) => (value < 10 ? `${value.toFixed(1)} ms` : value < 2000 ? `${value.toFixed(0)} ms` : `${(value / 1000).toFixed(1)} s`);

/* The engine and its models ------------------------------------------------------------------------------------------ */

/** What a model is opened with; kept, so that a new worker can open it again. */
let classifierSource;
let classifierReady = false;

async function start() {
  const { version, simd, threads } = await client.run('start');
  $('engine').textContent = `${simd} · ${threads} ${threads === 1 ? 'thread' : 'threads'} · v${version}`;
  $('engine').dataset.simd = simd;
}

/** What `models/index.json` beside the page lists. */
async function listModels() {
  const response = await fetch('models/index.json');
  if (!response.ok) throw Object.assign(new Error('the list of models is missing'), { hint: 'build the page by cargo xtask web' });
  const { upscalers, classifiers } = await response.json();
  for (const [i, { file, scale }] of upscalers.entries()) {
    const label = document.createElement('label');
    const radio = Object.assign(document.createElement('input'), { type: 'radio', name: 'scale', value: scale, checked: i === upscalers.length - 1 });
    radio.dataset.url = new URL(`models/${file}`, document.baseURI).href;
    radio.addEventListener('change', () => state.picture && enlarge());
    label.append(radio, ` ${scale}×`);
    $('scales').append(label);
  }
  const select = $('classifier');
  for (const { file, name, labels } of classifiers) {
    const option = new Option(name, new URL(`models/${file}`, document.baseURI).href);
    option.dataset.labels = labels ? new URL(`models/${labels}`, document.baseURI).href : '';
    select.append(option);
  }
  if (classifiers.length) await openClassifier({ url: select.value, labelsUrl: select.selectedOptions[0].dataset.labels });
  else {
    select.append(new Option('none yet', ''));
    select.disabled = true;
    $('classifier-facts').textContent = 'Open a MobileNet as .tflite or .safetensors; a .txt with a name on each line may come along.';
  }
}

async function openClassifier({ name, url, labelsUrl, parts, labels }) {
  calm();
  $('classifier-facts').textContent = 'loading…';
  if (labelsUrl) labels = await (await fetch(labelsUrl)).text();
  try {
    const opened = await client.run('openClassifier', { name, url, parts, labels });
    classifierSource = { name, url, parts, labels };
    classifierReady = true;
    $('classifier-facts').textContent = `${opened.name}: ${opened.classes} classes, pictures of ${opened.inputSize.join('×')}`;
    if (name) {
      const select = $('classifier');
      if (select.disabled) select.replaceChildren();
      select.disabled = false;
      if (![...select.options].some((o) => o.text === name)) select.append(new Option(name, ''));
      select.selectedIndex = [...select.options].findIndex((o) => o.text === name);
    }
    if (state.picture && state.tab === 'classify') await classify();
  } catch (error) {
    $('classifier-facts').textContent = classifierReady ? 'the model before is still in use' : '';
    throw error;
  }
}

/** One or two model files, and perhaps a file of labels. */
async function openModelFiles(files) {
  const labels = files.find((f) => /\.txt$/i.test(f.name));
  const models = files.filter((f) => f !== labels);
  if (models.length === 0 && !classifierSource) throw Object.assign(new Error('no model is open that these labels could name'), { hint: 'open it together with its labels' });
  const parts = models.length ? await Promise.all(models.map(async (f) => new Uint8Array(await f.arrayBuffer()))) : classifierSource.parts;
  const name = models.map((f) => f.name).join(' + ') || classifierSource.name;
  await openClassifier({ ...(models.length ? {} : classifierSource), name, parts, labels: await labels?.text() });
}

client.onrestart = () => {
  start().catch(complain);
  classifierReady = false;
  if (classifierSource) openClassifier(classifierSource).catch(complain);
};

/* Classifying -------------------------------------------------------------------------------------------------------- */

function showPredictions(predictions) {
  const list = $('predictions');
  while (list.children.length > predictions.length) list.lastChild.remove();
  predictions.forEach(({ label, probability }, i) => {
    const item = list.children[i] ?? list.appendChild(document.createElement('li'));
    if (!item.children.length) item.append(document.createElement('span'), document.createElement('span'));
    item.style.setProperty('--share', probability);
    item.children[0].textContent = label;
    item.children[1].textContent = `${(probability * 100).toFixed(1)} %`;
  });
}

function showPicture(id, stage, blob) {
  const image = $(id);
  URL.revokeObjectURL(image.src);
  image.src = URL.createObjectURL(blob);
  image.hidden = false;
  $(stage).classList.add('full');
}

async function classify() {
  showPicture('classify-picture', 'classify-stage', state.picture);
  if (!classifierReady) throw Object.assign(new Error('no model is open'), { hint: 'open a model file first: .tflite or .safetensors' });
  $('classify-facts').textContent = 'looking…';
  try {
    const result = await client.run('classify', { picture: state.picture, top: 5 });
    showPredictions(result.predictions);
    $('classify-facts').textContent = `${result.width}×${result.height} classified in ${milliseconds(result.milliseconds)}`;
  } catch (error) {
    $('classify-facts').textContent = '';
    throw error;
  }
}

/* Camera ------------------------------------------------------------------------------------------------------------- */

async function startCamera() {
  if (!navigator.mediaDevices?.getUserMedia) throw Object.assign(new Error('the browser offers no camera here'), { hint: 'pages may use it over https or from localhost' });
  const video = { facingMode: 'environment', width: { ideal: 640 }, height: { ideal: 480 } };
  const stream = await navigator.mediaDevices.getUserMedia({ video }).catch((error) => {
    throw Object.assign(new Error(`no camera: ${error.message}`), { hint: 'allow the page to use it' });
  });
  state.camera = stream;
  const view = $('camera');
  view.srcObject = stream;
  await view.play();
  view.hidden = false;
  $('classify-picture').hidden = true;
  $('classify-stage').classList.add('full');
  $('camera-button').setAttribute('aria-pressed', 'true');
  watch(stream, view);
}

function stopCamera() {
  state.camera?.getTracks().forEach((track) => track.stop());
  state.camera = undefined;
  $('camera').hidden = true;
  $('camera').srcObject = null;
  $('camera-button').setAttribute('aria-pressed', 'false');
  $('classify-stage').classList.toggle('full', !$('classify-picture').hidden);
}

/** Classifies one frame after the other until the camera is stopped. */
async function watch(stream, view) {
  let last = performance.now();
  let interval = 0;
  try {
    while (state.camera === stream) {
      if (!classifierReady) throw Object.assign(new Error('no model is open'), { hint: 'open a model file first: .tflite or .safetensors' });
      await new Promise(requestAnimationFrame);
      if (view.readyState < 2) continue;
      const frame = await createImageBitmap(view);
      const result = await client.run('classify', { picture: frame, top: 5 }, { transfer: [frame] });
      if (state.camera !== stream) return;
      showPredictions(result.predictions);
      const now = performance.now();
      interval = interval ? interval * 0.9 + (now - last) * 0.1 : now - last;
      last = now;
      $('classify-facts').textContent = `${(1000 / interval).toFixed(0)} pictures a second · ${milliseconds(result.milliseconds)} each`;
    }
  } catch (error) {
    stopCamera();
    complain(error);
  }
}

/* Enlarging ---------------------------------------------------------------------------------------------------------- */

async function enlarge() {
  const radio = document.querySelector('input[name=scale]:checked');
  if (!radio) throw new Error('no network to enlarge with');
  if (state.busy) {
    client.restart();
    await new Promise((resolve) => setTimeout(resolve)); // for the stopped task to end
  }
  calm();
  const scale = Number(radio.value);
  const show = (done) => {
    $('progress').value = done;
    $('percent').textContent = `${Math.floor(done * 100)} %`;
  };
  state.busy = true;
  show(0);
  $('working').hidden = false;
  $('download').hidden = true;
  $('enlarge-facts').textContent = '';
  const { picture, pictureName } = state;
  try {
    const result = await client.run('upscale', { picture, scale, url: radio.dataset.url }, { progress: show });
    showPicture('after', 'enlarge-stage', result.png);
    showPicture('before', 'enlarge-stage', picture);
    $('compare').hidden = false;
    $('download').href = $('after').src;
    $('download').download = `${pictureName.replace(/\.[^.]*$/, '') || 'picture'}_x${scale}.png`;
    $('download').hidden = false;
    const { from, width, height } = result;
    const rate = (from.width * from.height) / 1e3 / result.milliseconds;
    $('enlarge-facts').textContent =
      `${from.width}×${from.height} → ${width}×${height} in ${milliseconds(result.milliseconds)} ` +
      `(${rate.toFixed(2)} Mpixel a second), PNG in ${milliseconds(result.encoding)}`;
  } finally {
    state.busy = false;
    $('working').hidden = true;
  }
}

/* Pictures in -------------------------------------------------------------------------------------------------------- */

async function take(files) {
  calm();
  const models = files.filter((f) => /\.(safetensors|tflite|txt)$/i.test(f.name));
  if (models.length) return openModelFiles(models);
  const [picture] = files;
  if (!picture) return;
  state.picture = picture;
  state.pictureName = picture.name ?? '';
  if (state.tab === 'classify') {
    stopCamera();
    await classify();
  } else await enlarge();
}

const taking = (files) => take([...files]).catch(complain);

for (const button of document.querySelectorAll('[data-pick]')) {
  button.addEventListener('click', () => $(`${button.dataset.pick}-input`).click());
}
for (const input of [$('picture-input'), $('model-input')]) {
  input.addEventListener('change', () => {
    taking(input.files);
    input.value = ''; // so that the same file can be chosen again
  });
}
document.addEventListener('paste', (event) => {
  if (event.clipboardData?.files.length) taking(event.clipboardData.files);
});
let dragDepth = 0;
document.addEventListener('dragenter', () => document.body.classList.toggle('dragging', ++dragDepth > 0));
document.addEventListener('dragleave', () => document.body.classList.toggle('dragging', --dragDepth > 0));
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  event.preventDefault();
  dragDepth = 0;
  document.body.classList.remove('dragging');
  if (event.dataTransfer?.files.length) taking(event.dataTransfer.files);
});

/* Controls ----------------------------------------------------------------------------------------------------------- */

const tabs = [...document.querySelectorAll('[role=tab]')];
function select(tab) {
  for (const other of tabs) {
    const chosen = other === tab;
    other.setAttribute('aria-selected', chosen);
    other.tabIndex = chosen ? 0 : -1;
    $(other.getAttribute('aria-controls')).hidden = !chosen;
  }
  state.tab = tab.getAttribute('aria-controls');
  if (state.tab !== 'classify') stopCamera();
}
for (const [i, tab] of tabs.entries()) {
  tab.addEventListener('click', () => select(tab));
  tab.addEventListener('keydown', ({ key }) => {
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tabs.length - 1 }[key];
    if (to === undefined) return;
    const next = tabs[(to + tabs.length) % tabs.length];
    next.focus();
    select(next);
  });
}

$('camera-button').addEventListener('click', () => (state.camera ? stopCamera() : startCamera().catch(complain)));
$('classifier').addEventListener('change', ({ target }) => {
  const { value, dataset } = target.selectedOptions[0];
  if (value) openClassifier({ url: value, labelsUrl: dataset.labels }).catch(complain);
});
$('stop').addEventListener('click', () => client.restart());
$('slider').addEventListener('input', ({ target }) => $('compare').style.setProperty('--cut', `${target.value}%`));
$('theme').addEventListener('click', () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === 'dark' : matchMedia('(prefers-color-scheme: dark)').matches;
  root.dataset.theme = dark ? 'light' : 'dark';
});

start()
  .then(listModels)
  .catch((error) => {
    $('engine').textContent = 'not available';
    complain(error);
  });
