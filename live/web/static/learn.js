// A new person: the video, the consent, what the video covers, and the training.

import { capital, dropZone, duration, el, get, post, say, sentence, size, upload } from './api.js'
import { STATES, progressText } from './lists.js'

const VERDICTS = { well: 'good', little: 'a little', not: 'lacking' }
const MINUTES = [6, 10, 20, 40, 90, 180]
const TIPS = [
  'Half a minute to a minute; any phone, on a stand, at the height of the eyes, a metre away.',
  'Head and shoulders, the whole head in the picture all the time; the background stands still.',
  'Bright and even light from the front, the same all the time.',
  'Turn slowly left and right, look up and down, tilt the head to both shoulders.',
  'Speak, also with a wide mouth (A E I O U), and pause with shut lips.',
  'Smile with teeth and without, raise the brows, frown, blink, look around with the eyes alone.',
  'No hands, hair or microphone before the face; no cuts or filters.',
]

export async function showNew(view) {
  document.title = 'Head2Head · New person'
  const state = await get('/api/state')
  const running = state.jobs.find(job => job.state === 'running')
  let file = null
  const status = el('div', { role: 'status' })
  const name = el('input', { type: 'text', maxlength: 60, required: true, autocomplete: 'off', id: 'name' })
  const consent = el('textarea', { required: true, maxlength: 500, id: 'consent', placeholder: 'I am … and agree that …' })
  const begin = el('button', { type: 'submit', class: 'primary' }, 'Begin')
  const wrong = el('p', { class: 'notice', role: 'alert', hidden: true })
  const fail = text => { wrong.textContent = sentence(text); wrong.hidden = false }

  async function take(chosen) {
    file = null
    wrong.hidden = true
    const bar = el('progress', { max: 1, value: 0, 'aria-label': 'Upload' })
    const text = el('p', { class: 'note' }, `${chosen.name} · ${size(chosen.size)}`)
    status.replaceChildren(bar, text)
    try {
      file = await upload(chosen, 'person', share => { if (share < 1) bar.value = share; else { bar.removeAttribute('value'); text.textContent = 'Looking at the video …' } }, state.limits)
      status.replaceChildren(el('p', { class: 'notice good' }, el('strong', {}, file.name), ` · ${duration(file.seconds)} · ${file.width} × ${file.height}, ${Math.round(file.fps)} pictures a second`),
        ...file.notes.map(note => el('p', { class: 'note' }, sentence(note))),
        file.seconds < 20 && el('p', { class: 'note' }, 'This is short: half a minute or more shows a person better.'))
      if (!name.value) name.value = chosen.name.replace(/\.[^.]*$/, '').replace(/[_\s]+/g, ' ').slice(0, 60)
    } catch (error) { status.replaceChildren(el('p', { class: 'notice', role: 'alert' }, sentence(error.message))) }
  }

  const fill = text => { consent.value = text.replaceAll('NAME', name.value || '…'); consent.focus() }
  const form = el('form', {},
    el('section', { class: 'card' }, el('h2', {}, '1 · The video'),
      dropZone('Drop a video of the person here', `or choose one · up to ${size(state.limits.bytes)} and ${duration(state.limits.seconds)}`, 'video/*,.mkv,.avi,.mts,.m2ts', take), status,
      el('details', {}, el('summary', {}, 'How to film'), el('ul', { class: 'tips' }, TIPS.map(tip => el('li', {}, tip))))),
    el('section', { class: 'card' }, el('h2', {}, '2 · Name and consent'),
      el('label', { class: 'field' }, el('span', {}, 'Name of the person'), name),
      el('label', { class: 'field' }, el('span', {}, 'Consent statement'), consent),
      el('p', { class: 'note' }, 'Who agrees to what, in your own words. It is kept with the person, and goes into the videos that are made.'),
      el('div', { class: 'presets' },
        el('button', { type: 'button', onclick: () => fill('I am NAME, the person in this video, and agree that my head is learnt and animated here.') }, 'It is me'),
        el('button', { type: 'button', onclick: () => fill('NAME, the person in this video, has agreed towards me, …, that the head is learnt and animated here.') }, 'They agreed'))),
    el('section', { class: 'card' }, el('h2', {}, '3 · Learn'),
      el('p', { class: 'note' }, 'First the face is found and tracked: a few minutes. Then you see what the video covers, and decide about training. It goes on when you close this page.'),
      wrong, begin))
  form.noValidate = true
  form.addEventListener('submit', async e => {
    e.preventDefault()
    wrong.hidden = true
    if (!file) return fail('choose a video first')
    if (!name.value.trim()) { name.focus(); return fail('give the person a name') }
    if (consent.value.trim().length < 15 || consent.value.includes('…')) { consent.focus(); return fail('write who agrees to what, in a whole sentence') }
    begin.disabled = true
    try {
      const job = await post('/api/jobs', { upload: file.id, name: name.value, consent: consent.value })
      location.hash = `#/person/${job.id}`
    } catch (error) { fail(error.message); begin.disabled = false }
  })
  view.replaceChildren(el('h1', {}, 'New person'), el('p', { class: 'lead' }, 'Learn a person’s head from one video.'),
    running ? el('p', { class: 'notice' }, `${running.name} is being learnt: one person at a time. `, el('a', { href: `#/person/${running.id}` }, 'Look at it')) : '', form)
}

export async function showJob(view, id) {
  let job = await get(`/api/jobs/${encodeURIComponent(id)}`)
  const state = await get('/api/state')
  document.title = `Head2Head · ${job.name}`
  const head = el('div')
  const now = el('section', { class: 'card', 'aria-live': 'polite' })
  const covers = el('section', { class: 'card', hidden: true })
  const sharpen = el('section', { class: 'card', hidden: true })
  const log = el('details', { class: 'card' }, el('summary', {}, 'What the programs say'), el('pre', { class: 'said' }))
  view.replaceChildren(head, now, sharpen, covers, log)
  let drawn = {}

  const act = async (action, told = {}) => {
    try { await post(`/api/jobs/${job.id}/${action}`, told); await update() } catch (error) { say(error) }
  }
  const button = (text, action, kind = '') => el('button', { type: 'button', class: kind, onclick: action }, text)

  function once(part, value, draw) { // redrawn only when something changed, so that focus and open lists stay
    const key = JSON.stringify(value)
    if (drawn[part] === key) return
    drawn[part] = key
    draw()
  }

  function steps() {
    const at = job.step === 'train' ? (job.state === 'done' ? 5 : 4) : job.state === 'ready' ? 3 : ['detect', 'landmarks', 'reconstruct'].indexOf(job.step)
    const texts = ['Find the face', 'Track it', 'Fit the 3D face', 'See what it covers', 'Train']
    return el('ol', { class: 'steps' }, texts.map((text, i) => el('li', { class: i < at ? 'done' : i === at ? 'now' : '', 'aria-current': i === at && 'step' }, text)))
  }

  function draw() {
    once('head', [job.name, job.state, job.step], () => head.replaceChildren(
      el('div', { class: 'row spread' }, el('h1', {}, job.name), el('a', { class: 'button quiet', href: '#/' }, 'All people')), steps()))
    once('now', [job.state, job.step, job.error, job.progress?.percent, job.progress?.left_s, drawn.person], drawNow)
    once('covers', job.coverage, drawCoverage)
    once('samples', job.samples, drawSamples)
    const said = (job.progress?.said || []).join('\n')
    log.hidden = !said
    log.querySelector('pre').textContent = said
  }

  function drawNow() {
    const p = job.progress || {}
    const person = state.persons.find(q => q.dataset === 'people' && q.name === job.identity)
    const driveLink = person && el('a', { class: 'button primary', href: `#/drive/${person.id}` }, `Drive ${job.name}`)
    if (job.state === 'running') {
      const bar = el('progress', { max: 100, 'aria-label': job.step_text })
      if (p.percent !== undefined) bar.value = p.percent
      now.replaceChildren(el('h2', {}, progressText(job)), bar,
        el('p', { class: 'note' }, job.step === 'train' ? 'Stop whenever you like: what is learnt is kept, and goes on from there.' : 'This goes on when you close the page.'),
        el('div', { class: 'row' }, button('Stop', () => act('stop')), job.step === 'train' && person && el('a', { class: 'button', href: `#/drive/${person.id}` }, 'Drive it as it is now')))
    } else if (job.state === 'ready') {
      const minutes = el('select', { 'aria-label': 'Minutes of training' }, MINUTES.map(m => el('option', { value: m, selected: m === 10 }, m < 90 ? `${m} minutes` : `${m / 60} hours`)))
      now.replaceChildren(el('h2', {}, 'Ready to be trained'),
        el('p', {}, 'Look at what the video covers, below. What it never shows can only be guessed: film again, or go on.'),
        state.has_gpu ? el('p', { class: 'note' }, 'With the GPU of this machine the whole recipe is trained.') : el('p', { class: 'note' }, 'Without a GPU a small preview of 128 pixels is trained: ten minutes show the person a little soft, longer is sharper.'),
        el('div', { class: 'row' }, !state.has_gpu && minutes, button('Train', () => act('train', state.has_gpu ? {} : { minutes: Number(minutes.value) }), 'primary'), el('a', { class: 'button', href: '#/new' }, 'Use another video')))
    } else if (job.state === 'done') {
      now.replaceChildren(el('h2', {}, `${job.name} is learnt`), el('div', { class: 'row' }, driveLink, remove()))
    } else {
      now.replaceChildren(el('h2', {}, capital(STATES[job.state])), job.error && el('p', { class: 'notice' }, sentence(job.error)),
        el('div', { class: 'row' }, button('Go on', () => act('resume'), 'primary'), job.step === 'train' && person && el('a', { class: 'button', href: `#/drive/${person.id}` }, 'Drive it as it is'), remove()))
    }
  }

  function remove() {
    return button('Take off the list', async () => {
      try { await post(`/api/jobs/${job.id}/delete`); location.hash = '#/' } catch (error) { say(error) }
    }, 'quiet')
  }

  function drawCoverage() {
    covers.hidden = !job.coverage.length
    const film = [...new Set(['not', 'little'].flatMap(v => job.coverage.filter(c => c.verdict === v).map(c => c.film)))].filter(Boolean)
    covers.replaceChildren(el('h2', {}, 'What the video shows of the person'),
      el('dl', { class: 'coverage' }, job.coverage.map(c => el('div', {}, el('dt', {}, capital(c.what)), el('dd', {}, c.seen),
        el('span', { class: `meter ${c.verdict}`, role: 'img', 'aria-label': VERDICTS[c.verdict], title: VERDICTS[c.verdict] })))),
      film.length ? el('p', {}, `For a better likeness, film as well: ${film.join('; ')}.`) : el('p', {}, 'Nothing is missing.'),
      el('p', { class: 'note' }, `Of ${(job.frames.train || 0) + (job.frames.test || 0)} pictures, ${job.frames.train || 0} are learnt from; the others are kept back for a test.`))
  }

  function drawSamples() {
    sharpen.hidden = !job.samples.length
    if (!job.samples.length) return
    const newest = job.samples[job.samples.length - 1]
    const address = stem => `/api/jobs/${job.id}/samples/${stem}`
    const figure = (stem, text) => el('figure', {}, el('img', { src: address(stem), alt: text }), el('figcaption', {}, text))
    sharpen.replaceChildren(el('h2', {}, 'As the network sees it'),
      el('div', { class: 'pair' }, figure(newest.real, 'a frame of the video'), figure(newest.fake, `what is learnt so far, step ${newest.step.toLocaleString()}`)),
      job.samples.length > 1 ? el('div', { class: 'film', tabindex: 0, 'aria-label': 'From the beginning to now' }, job.samples.map(s => figure(s.fake, `step ${s.step.toLocaleString()}`))) : '')
  }

  async function update() {
    job = await get(`/api/jobs/${encodeURIComponent(id)}`)
    if (job.step === 'train') {
      state.persons = (await get('/api/state')).persons
      drawn.person = state.persons.some(q => q.dataset === 'people' && q.name === job.identity)
    }
    draw()
  }
  draw()
  await update()
  const timer = setInterval(() => update().catch(() => {}), 2000)
  return () => clearInterval(timer)
}
