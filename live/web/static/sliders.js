// A pose that is given by sliders: the head's turn, the gaze, and the face model's expressions by ARKit's names.

import { el, toggle } from './api.js'

const TURNS = [ // name, label, end, unit; positive: as the picture is seen
  ['yaw', 'Turn', 40], ['pitch', 'Nod', 30], ['roll', 'Tilt', 30],
]
const GROUPS = [
  ['Jaw', /^jaw/], ['Mouth', /^mouth/], ['Brows', /^brow/], ['Eyelids', /^eye(?!Look)/], ['Cheeks and nose', /^(cheek|nose)/], ['Eyes (each by itself)', /^eyeLook/], ['Other', /./],
]
const PRESETS = [
  ['Smile', { mouthSmile: 0.8, cheekSquint: 0.4, eyeSquint: 0.2 }],
  ['Say A', { jawOpen: 0.6, mouthLowerDown: 0.2, mouthUpperUp: 0.15 }],
  ['Say O', { jawOpen: 0.35, mouthFunnel: 0.7 }],
  ['Surprise', { browInnerUp: 0.9, browOuterUp: 0.9, eyeWide: 0.7, jawOpen: 0.3 }],
  ['Frown', { browDown: 0.9, mouthFrown: 0.5, noseSneer: 0.2 }],
  ['Wink', { eyeBlink_L: 1, mouthSmile_L: 0.4, cheekSquint_L: 0.5 }],
]
const side = name => /_(L|R)$/.exec(name)?.[1]
const base = name => name.replace(/_(L|R)$/, '')

// "mouthSmile" -> "Smile": the part of the face is said by the group
export function label(name) {
  const words = base(name).replace(/^(mouth|brow|cheek|nose|eye(?=[A-Z])|jaw)/, '').replace(/([A-Z])/g, ' $1').trim().toLowerCase()
  const text = ({ left: 'to the left', right: 'to the right' }[words] || words || base(name)).replace(/^./, c => c.toUpperCase())
  return side(name) ? `${text}, ${side(name) === 'L' ? 'left' : 'right'}` : text
}

export class Sliders {
  // names: of the expressions. changed(pose): called when a slider moves.
  constructor(names, changed) {
    this.names = names
    this.changed = changed
    this.together = true
    this.inputs = new Map()
    this.open = new Set(['Jaw', 'Mouth'])
    this.body = el('div')
    this.node = el('div', {},
      el('div', { class: 'presets', role: 'group', 'aria-label': 'Expressions to begin with' },
        PRESETS.map(([text, weights]) => el('button', { type: 'button', onclick: () => this.apply(weights) }, text)),
        el('button', { type: 'button', onclick: () => this.reset() }, 'Reset')),
      toggle('Move both sides of the face together', true, on => { this.together = on; this.#build() }).node,
      this.body)
    this.#build()
  }

  pose() {
    const value = key => Number(this.inputs.get(key)?.value || 0)
    const expression = {}
    for (const name of this.names) {
      const weight = value(this.inputs.has(name) ? name : base(name)) / 100
      if (weight) expression[name] = weight
    }
    // the sliders go to the right as the picture is seen; the engine's yaw goes to the subject's left, which is the same; roll counter-clockwise
    return { yaw: value('yaw'), pitch: value('pitch'), roll: -value('roll'), gaze: [value('gazeX') / 100, value('gazeY') / 100], expression }
  }

  reset() {
    for (const input of this.inputs.values()) this.#put(input, 0)
    this.changed(this.pose())
  }

  // Expression weights by name; a name without a side means both.
  apply(weights) {
    if (Object.keys(weights).some(side) && this.together) {
      this.together = false
      this.node.querySelector('.switch input').checked = false
      this.#build()
    }
    for (const [key, input] of this.inputs) {
      if (this.names.some(n => base(n) === base(key))) this.#put(input, 100 * (weights[key] ?? weights[base(key)] ?? 0))
    }
    this.changed(this.pose())
  }

  #put(input, value) {
    input.value = value
    input.nextSibling.value = input.dataset.unit === '°' ? `${Math.round(input.value)}°` : Math.round(input.value)
  }

  #slider(key, text, least, most, unit, title) {
    const id = `slider-${key}`
    const output = el('output', { for: id })
    const input = el('input', {
      type: 'range', id, min: least, max: most, step: 1, 'data-unit': unit, title: title || key,
      oninput: () => { this.#put(input, input.value); this.changed(this.pose()) },
      ondblclick: () => { this.#put(input, 0); this.changed(this.pose()) },
    })
    const row = el('div', { class: 'slider' }, el('label', { for: id, title: title || key }, text), input, output)
    this.#put(input, this.kept?.get(key) ?? this.kept?.get(base(key)) ?? 0)
    this.inputs.set(key, input)
    return row
  }

  #group(title, rows) {
    return el('details', { open: this.open.has(title), ontoggle: e => e.target.open ? this.open.add(title) : this.open.delete(title) }, el('summary', {}, title), rows)
  }

  #build() {
    this.kept = new Map([...this.inputs].map(([key, input]) => [key, Number(input.value)]))
    for (const [key, value] of [...this.kept]) if (side(key)) this.kept.set(base(key), value)
    this.inputs = new Map()
    this.open.add('Head').add('Gaze')
    const groups = [
      this.#group('Head', TURNS.map(([key, text, end]) => this.#slider(key, text, -end, end, '°'))),
      this.#group('Gaze', [this.#slider('gazeX', 'Left, right', -100, 100, ''), this.#slider('gazeY', 'Down, up', -100, 100, '')]),
    ]
    const rest = new Set(this.names)
    for (const [title, pattern] of GROUPS) {
      const own = [...rest].filter(name => pattern.test(name))
      for (const name of own) rest.delete(name)
      const keys = this.together ? [...new Set(own.map(base))] : own
      if (keys.length) groups.push(this.#group(title, keys.map(key => this.#slider(key, label(key), 0, 100, '', `ARKit: ${key}`))))
    }
    this.body.replaceChildren(...groups)
    this.kept = null
  }
}
