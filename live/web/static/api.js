// Requests to the server, and building blocks of the page. Texts from elsewhere only ever become text nodes.

export class Refused extends Error {
  constructor(text, status) { super(text); this.status = status }
}

async function answer(response) {
  let told = {}
  try { told = await response.json() } catch { /* not ours */ }
  if (!response.ok) throw new Refused(told.error || `the server answers ${response.status}`, response.status)
  return told
}

async function ask(path, options) {
  let response
  try { response = await fetch(path, options) } catch { throw new Refused('the server does not answer; is it still running?', 0) }
  return answer(response)
}

export const get = path => ask(path)
export const post = (path, told = {}) => ask(path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(told) })
export const remove = path => ask(path, { method: 'DELETE' })

// Sends a file; progress is called with 0..1, and with 1 while the server looks at it.
export function upload(file, purpose, progress, limits) {
  return new Promise((resolve, reject) => {
    if (purpose !== 'motion' && limits && file.size > limits.bytes) {
      reject(new Refused(`${file.name} has ${size(file.size)}, more than ${size(limits.bytes)}; cut it, or save it with less resolution`, 400))
      return
    }
    const request = new XMLHttpRequest()
    request.open('POST', `/api/uploads?purpose=${purpose}&name=${encodeURIComponent(file.name)}`)
    request.upload.onprogress = e => progress(e.lengthComputable ? e.loaded / e.total : 0)
    request.onload = () => {
      let told = {}
      try { told = JSON.parse(request.responseText) } catch { /* not ours */ }
      if (request.status === 200) resolve(told)
      else reject(new Refused(told.error || `the server answers ${request.status}`, request.status))
    }
    request.onerror = () => reject(new Refused('the upload was broken off; try again', 0))
    request.send(file)
  })
}

// el('button', {class: 'primary', onclick: f, 'aria-label': 'x'}, 'text', node, ...)
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value)
    else if (value === true) node.setAttribute(name, '')
    else node.setAttribute(name, value)
  }
  node.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false))
  return node
}

let hiding
export function toast(text) {
  const box = document.getElementById('toast')
  box.textContent = text
  box.hidden = false
  clearTimeout(hiding)
  hiding = setTimeout(() => { box.hidden = true }, Math.max(4000, 70 * text.length))
}

export const say = error => toast(sentence(error.message))
// As a sentence; a file's name at its beginning stays as it is.
export const sentence = text => text ? (/^[a-z]+[ ,:']/.test(text) ? text[0].toUpperCase() + text.slice(1) : text) + (/[.!?]$/.test(text) ? '' : '.') : ''
export const capital = text => text && text[0].toUpperCase() + text.slice(1)
export const size = bytes => bytes < 1e6 ? `${Math.ceil(bytes / 1e3)} kB` : bytes < 1e9 ? `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB` : `${(bytes / 1e9).toFixed(1)} GB`

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 90 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${String(minutes % 60).padStart(2, '0')} min`
}

// A place to drop a file, or to choose one. Takes one file at a time.
export function dropZone(title, hint, accept, take, small = false) {
  const input = el('input', { type: 'file', accept, onchange: () => { if (input.files[0]) take(input.files[0]); input.value = '' } })
  const zone = el('label', { class: small ? 'drop small' : 'drop' }, input, el('strong', {}, title), el('span', { class: 'note' }, hint))
  zone.addEventListener('dragover', e => { e.preventDefault(); zone.classList.add('over') })
  zone.addEventListener('dragleave', () => zone.classList.remove('over'))
  zone.addEventListener('drop', e => {
    e.preventDefault()
    zone.classList.remove('over')
    if (e.dataTransfer.files[0]) take(e.dataTransfer.files[0])
  })
  return zone
}

export function toggle(label, checked, change, attributes = {}) {
  const input = el('input', { type: 'checkbox', role: 'switch', checked, onchange: () => change(input.checked), ...attributes })
  return { node: el('label', { class: 'switch' }, input, label), input }
}

// Buttons of which one is chosen.
export function segments(label, choices, chosen, change) {
  const buttons = choices.map(([value, text]) => el('button', { type: 'button', 'aria-pressed': String(value === chosen), onclick: () => choose(value, true) }, text))
  function choose(value, tell) {
    choices.forEach(([own], i) => buttons[i].setAttribute('aria-pressed', String(own === value)))
    if (tell) change(value)
  }
  return { node: el('div', { class: 'segments', role: 'group', 'aria-label': label }, buttons), choose: value => choose(value, false) }
}
