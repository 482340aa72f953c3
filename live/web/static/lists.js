// The persons, and the recordings.

import { capital, duration, el, get, remove, say, sentence, size } from './api.js'

export const STATES = {
  running: 'being learnt', ready: 'ready to be trained', stopped: 'stopped', failed: 'something went wrong', 'cut off': 'cut off', done: 'learnt',
}

export async function showPersons(view) {
  document.title = 'Head2Head'
  const list = el('ul', { class: 'people' })
  const jobs = el('div')
  view.replaceChildren(el('h1', {}, 'Who shall move?'), el('p', { class: 'lead' }, 'Choose a person, then drive the head: with your face, a video, a capture or sliders.'), jobs, list)
  let before = ''
  async function update() {
    const state = await get('/api/state')
    const known = JSON.stringify([state.persons, state.jobs])
    if (known === before) return
    before = known
    const open = state.jobs.filter(job => job.state !== 'done')
    jobs.replaceChildren(...open.map(job => el('a', { class: 'card person', href: `#/person/${job.id}` }, el('div', { class: 'text' },
      el('strong', {}, `${job.name}: ${STATES[job.state]}`),
      el('span', { class: 'note' }, job.state === 'running' ? progressText(job) : job.error ? sentence(job.error) : 'Look at it')))))
    list.replaceChildren(...state.persons.map(personCard), el('li', {}, el('a', { class: 'card person', href: '#/new' },
      el('div', { class: 'blank', 'aria-hidden': 'true' }, '+'),
      el('div', { class: 'text' }, el('strong', {}, 'New person'), el('span', { class: 'note' }, 'learn one from a video')))))
  }
  await update()
  const timer = setInterval(() => update().catch(() => {}), 2000)
  return () => clearInterval(timer)
}

function personCard(person) {
  const picture = person.picture
    ? el('img', { src: `/api/persons/${person.id}/picture?${person.picture}`, alt: '', loading: 'lazy' })
    : el('div', { class: 'blank', 'aria-hidden': 'true' }, [...person.name][0].toUpperCase())
  const more = [person.run, person.dataset === 'people' ? '' : person.dataset].filter(Boolean).join(' · ')
  return el('li', {}, el('a', { class: 'card person', href: `#/drive/${person.id}` }, picture,
    el('div', { class: 'text' }, el('strong', {}, person.name), el('span', { class: 'note' }, more || 'drive'))))
}

export function progressText(job) {
  const p = job.progress || {}
  const left = p.left_s ? `, ${duration(p.left_s)} left` : ''
  return `${capital(job.step_text)}${p.percent === undefined ? ' …' : `: ${p.percent} %${left}`}`
}

export async function showRecordings(view) {
  document.title = 'Head2Head · Recordings'
  const { recordings } = await get('/api/state')
  const list = el('ul', { class: 'films' }, recordings.map(r => recordingCard(r)))
  view.replaceChildren(el('h1', {}, 'Recordings'),
    recordings.length ? el('p', { class: 'lead' }, 'Every video says of itself that it is synthetic.') : el('p', { class: 'lead' }, 'None yet: drive a person, and press Record.'), list)
}

export function recordingCard(recording) {
  const address = `/api/recordings/${encodeURIComponent(recording.name)}`
  const card = el('li', { class: 'card' },
    el('video', { src: address, controls: true, preload: 'metadata', playsinline: true }),
    el('strong', {}, recording.name),
    el('p', { class: 'note' }, `${new Date(1000 * recording.time).toLocaleString()} · ${size(recording.bytes)}`),
    el('div', { class: 'row spread' },
      el('a', { class: 'button', href: `${address}?download`, download: recording.name }, 'Download'),
      el('button', { type: 'button', class: 'quiet danger', onclick: async () => {
        if (!confirm(`Delete ${recording.name}?`)) return
        try { await remove(address); card.remove() } catch (error) { say(error) }
      } }, 'Delete')))
  return card
}
