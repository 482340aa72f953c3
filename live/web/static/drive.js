// Driving a person: camera, video, motion file or sliders in; pictures, figures and recordings out.

import { dropZone, duration, el, get, say, segments, sentence, toast, toggle, upload } from './api.js'
import { Camera, cameras, hidden, hiddenText, whyNot } from './camera.js'
import { recordingCard } from './lists.js'
import { Microphone } from './microphone.js'
import { Sliders } from './sliders.js'
import { Stream } from './stream.js'

const HINTS = {
  loading: 'Loading the person …',
  calibrating: 'Look at the camera for a second',
  lost: 'No face is seen',
}
const MOST_DRIFT_S = 0.3 // beyond which sound jumps; below, it runs a little faster or slower
const SEEN_DRIFT_S = 0.025

export async function showDrive(view, id) {
  const state = await get('/api/state')
  const person = state.persons.find(p => p.id === id)
  if (!person) {
    view.replaceChildren(el('p', { class: 'notice' }, 'This person is not here any more.'), el('a', { class: 'button', href: '#/' }, 'Choose another'))
    return undefined
  }
  document.title = `Head2Head · ${person.name}`
  const drive = new Drive(person, state)
  view.replaceChildren(...drive.nodes)
  drive.connect()
  return () => drive.close()
}

class Drive {
  constructor(person, state) {
    this.person = person
    this.limits = state.limits
    this.kind = hidden() ? 'sliders' : 'camera'
    this.ready = false // the person is loaded
    this.playing = false
    this.canvas = el('canvas', { width: 256, height: 256, role: 'img', 'aria-label': `${person.name}, synthesised` })
    this.context = this.canvas.getContext('2d', { alpha: false })
    this.hint = el('div', { class: 'hint', role: 'status' }, HINTS.loading)
    this.chip = el('div', { class: 'state', hidden: true })
    this.clock = el('div', { class: 'live', hidden: true })
    this.screen = el('div', { class: 'screen' }, this.canvas, this.hint, this.chip, this.clock)
    this.figures = el('div', { class: 'figures', 'aria-live': 'off' })
    this.audio = el('audio', { hidden: true, preload: 'auto' })
    this.video = el('video', { class: 'own', playsinline: true, 'aria-label': 'Your camera' })
    this.panel = el('div', { class: 'panel' })
    this.made = el('ul', { class: 'films' })
    this.nodes = [
      el('div', { class: 'row spread' }, el('h1', {}, person.name), el('a', { class: 'button quiet', href: '#/' }, 'Another person')),
      state.jobs.some(job => job.state === 'running') && el('p', { class: 'notice' }, 'A person is being learnt on this machine: driving is slower meanwhile.'),
      el('div', { class: 'drive' },
        el('div', { class: 'stage' }, this.screen, el('div', { class: 'under' }, this.figures, this.#recordBar()), this.audio),
        el('div', {}, this.#sourceCard(), this.#settingsCard())),
      this.made,
    ].filter(Boolean)
    this.keys = e => this.#key(e)
    document.addEventListener('keydown', this.keys)
  }

  // ---- the connection ----

  async connect() {
    this.stream = new Stream(bitmap => this.#show(bitmap), {
      picture: info => this.#picture(info),
      loading: () => this.#hint(HINTS.loading),
      person: told => this.#loaded(told),
      statistics: told => this.#statistics(told),
      recording: told => this.#recordingChanged(told),
      ended: () => this.#ended(),
      error: told => { toast(sentence(told.text)); if (!this.ready) this.#hint(sentence(told.text)); else if (this.playing && this.kind !== 'camera' && this.kind !== 'sliders') this.#ended() },
      closed: busy => this.#closed(busy),
    })
    try {
      await this.stream.opened
      this.stream.tell({ type: 'person', id: this.person.id })
    } catch (error) { this.#hint(sentence(error.message)) }
    this.timer = setInterval(() => this.#tick(), 500)
  }

  close() {
    clearInterval(this.timer)
    document.removeEventListener('keydown', this.keys)
    this.#stopSource()
    this.stream?.close()
  }

  #closed(busy) {
    this.#stopSource()
    this.ready = false
    this.#hint(busy ? 'Somebody else drives at the moment.' : 'The connection was lost.', 'Try again', () => {
      this.hint.replaceChildren(HINTS.loading)
      clearInterval(this.timer)
      this.connect()
    })
  }

  #loaded(told) {
    this.told = told
    this.ready = true
    this.sliders = null
    this.fullInput.checked = this.settings.paste_back = told.full_picture
    this.#hint('')
    this.#tellSettings()
    this.#choose(this.kind)
  }

  // ---- pictures ----

  #show(bitmap) {
    if (this.canvas.width !== bitmap.width || this.canvas.height !== bitmap.height) {
      this.canvas.width = bitmap.width
      this.canvas.height = bitmap.height
      this.screen.style.setProperty('--ratio', bitmap.width / bitmap.height)
    }
    this.context.drawImage(bitmap, 0, 0)
    bitmap.close()
  }

  #picture(info) {
    this.state = info.state
    this.shownTime = info.time
    if (this.ready && this.playing) this.#hint('')
    this.chip.hidden = !this.playing || info.state === 'driving' || this.kind === 'sliders'
    this.chip.textContent = HINTS[info.state] || ''
    if (this.kind === 'video') this.#syncSound(info.time / 1000)
  }

  // Sound follows the pictures as they are shown.
  #syncSound(time) {
    if (!this.file?.sound || !this.playing) return
    if (this.audio.paused) {
      if (this.audio.ended || time >= this.audio.duration) return
      this.audio.currentTime = time
      this.audio.play().catch(() => {})
      return
    }
    const drift = this.audio.currentTime - time
    if (Math.abs(drift) > MOST_DRIFT_S) this.audio.currentTime = time
    else this.audio.playbackRate = Math.abs(drift) < SEEN_DRIFT_S ? 1 : drift > 0 ? 0.97 : 1.03
    this.drift = drift
  }

  #hint(text, button, action) {
    this.hint.hidden = !text
    if (text) this.hint.replaceChildren(el('div', {}, el('p', {}, text), button && el('button', { type: 'button', onclick: action }, button)))
  }

  #statistics(told) { this.told_statistics = told }

  #tick() {
    const told = this.told_statistics
    const own = this.stream.figures()
    const parts = []
    if (this.playing && Number.isFinite(own.fps) && this.kind !== 'sliders') {
      parts.push(el('span', {}, el('b', { id: 'fps' }, own.fps.toFixed(0)), ' pictures a second'))
      if (this.kind === 'camera' && Number.isFinite(own.delay)) parts.push(el('span', { title: 'from the moment when the camera took the picture until yours is shown' }, el('b', { id: 'delay' }, own.delay.toFixed(0)), ' ms delay'))
    }
    if (this.told) parts.push(el('span', { title: `${this.told.backend}${told?.stages ? `\n${Object.entries(told.stages).map(([k, v]) => `${k} ${v} ms`).join('\n')}` : ''}` }, `${this.told.size} × ${this.told.size}`))
    this.figures.replaceChildren(...parts)
    if (this.recordingSince) this.clock.textContent = `● ${duration((performance.now() - this.recordingSince) / 1000)}`
  }

  // ---- where motion comes from ----

  #sourceCard() {
    this.kinds = segments('What drives', [['camera', 'Camera'], ['video', 'Video'], ['motion', 'Capture'], ['sliders', 'Sliders']], this.kind, kind => this.#choose(kind))
    return el('section', { class: 'card', 'aria-label': 'What drives' }, this.kinds.node, this.panel)
  }

  #choose(kind) {
    this.#stopSource()
    this.kind = kind
    this.kinds.choose(kind)
    this.file = null
    this.drawn = false
    this.panel.replaceChildren(...{ camera: () => this.#cameraPanel(), video: () => this.#filePanel(false), motion: () => this.#filePanel(true), sliders: () => this.#sliderPanel() }[kind]())
    this.#enable()
    if (this.ready && kind !== 'sliders' && !this.canvasUsed) this.#hint('')
  }

  #cameraPanel() {
    if (hidden()) return [el('p', { class: 'notice' }, hiddenText())]
    this.cameraButton = el('button', { type: 'button', class: 'primary', onclick: () => this.playing ? this.#stopSource() : this.#startCamera() }, 'Start the camera')
    this.cameraChoice = el('select', { 'aria-label': 'Camera', hidden: true, onchange: () => { if (this.playing) { this.#stopSource(); this.#startCamera() } } })
    return [
      el('div', { class: 'row' }, this.cameraButton, this.cameraChoice),
      el('div', { class: 'beside' }, this.video, el('p', { class: 'note' }, 'Look straight at the camera at first. Your pictures go to the server of this page and nowhere else; they are not kept.')),
    ]
  }

  async #startCamera() {
    if (!this.ready) return
    this.cameraButton.disabled = true
    this.stream.tell({ type: 'source', kind: 'camera' })
    this.stream.camera = true
    this.stream.delays = []
    this.camera = new Camera(this.stream, this.video)
    this.playing = true
    try {
      await this.camera.start(this.cameraChoice.value)
      const found = await cameras()
      if (found.length > 1 && this.cameraChoice.options.length !== found.length) {
        const used = this.camera.media.getVideoTracks()[0].getSettings().deviceId
        this.cameraChoice.replaceChildren(...found.map((c, i) => el('option', { value: c.deviceId, selected: c.deviceId === used }, c.label || `Camera ${i + 1}`)))
        this.cameraChoice.hidden = false
      }
    } catch (error) {
      this.#stopSource()
      toast(sentence(whyNot(error)))
    }
    this.cameraButton.disabled = false
    this.#enable()
  }

  #filePanel(motion) {
    const status = el('div', { role: 'status' })
    const take = async file => {
      this.#stopSource()
      const bar = el('progress', { max: 1, value: 0, 'aria-label': 'Upload' })
      status.replaceChildren(bar)
      try {
        this.file = await upload(file, motion ? 'motion' : 'drive', share => { if (share < 1) bar.value = share; else bar.removeAttribute('value') }, this.limits)
        this.playButton = el('button', { type: 'button', class: 'primary', onclick: () => this.playing ? this.#stopSource() : this.#play() }, 'Play')
        status.replaceChildren(el('p', {}, el('strong', {}, this.file.name), this.file.seconds ? ` · ${duration(this.file.seconds)}${this.file.sound ? '' : ' · no sound'}` : ''),
          ...this.file.notes.map(note => el('p', { class: 'note' }, sentence(note))), el('div', { class: 'row' }, this.playButton))
        if (this.file.sound) this.audio.src = `/api/uploads/${this.file.id}/sound`
      } catch (error) {
        status.replaceChildren(el('p', { class: 'notice', role: 'alert' }, sentence(error.message)))
      }
    }
    return motion
      ? [dropZone('Drop a motion file', 'ARKit blendshapes (.csv, as from Live Link Face) or a template of reenact.py (.json)', '.csv,.tsv,.txt,.tab,.json,text/csv,application/json', take, true), status]
      : [dropZone('Drop a video', 'Its person drives, at the video’s own speed, with its sound', 'video/*,.mkv,.avi,.mts,.m2ts', take, true), status]
  }

  #play() {
    if (!this.ready || !this.file) return
    this.stream.camera = false
    this.audio.pause()
    this.audio.currentTime = 0
    this.stream.tell({ type: 'source', kind: this.kind, upload: this.file.id })
    this.playing = true
    this.#enable()
  }

  #ended() {
    this.playing = false
    this.audio.pause()
    this.chip.hidden = true
    this.#enable()
  }

  #sliderPanel() {
    if (!this.ready) return [el('p', { class: 'note' }, HINTS.loading)]
    let waiting = null
    let busy = false
    const send = pose => {
      if (busy) { waiting = pose; return }
      busy = true
      this.stream.tell({ type: 'pose', ...pose })
    }
    this.stream.on.picture = info => { // one pose on its way, the newest waits
      this.#picture(info)
      if (this.kind !== 'sliders') return
      busy = false
      if (waiting) { const next = waiting; waiting = null; send(next) }
    }
    this.sliders = new Sliders(this.told.expressions, send)
    this.stream.camera = false
    this.stream.tell({ type: 'source', kind: 'sliders' })
    busy = true
    this.playing = true
    return [this.sliders.node]
  }

  #stopSource() {
    if (this.camera) { this.camera.stop(); this.camera = null }
    if (this.microphone) { this.microphone.stop(); this.microphone = null }
    this.audio.pause()
    if (this.playing) this.stream?.tell({ type: 'stop' })
    this.playing = false
    this.chip.hidden = true
    this.#enable()
  }

  #enable() {
    if (this.cameraButton) this.cameraButton.textContent = this.playing && this.kind === 'camera' ? 'Stop the camera' : 'Start the camera'
    if (this.playButton) this.playButton.textContent = this.playing ? 'Stop' : 'Play'
    this.recordButton.disabled = !this.playing && !this.recordingSince
    this.recalibrateButton.disabled = !(this.playing && (this.kind === 'camera' || this.kind === 'video'))
    this.soundToggle.node.hidden = this.kind !== 'camera' || hidden()
    this.settingsCard.hidden = this.kind === 'sliders'
    for (const node of this.forDrivers) node.hidden = this.kind === 'motion'
    this.mirror.node.hidden = this.kind !== 'camera'
  }

  // ---- settings ----

  #settingsCard() {
    const tell = () => this.#tellSettings()
    this.settings = { mode: 'head', mirror: true, side_by_side: false, exaggerate: 1, paste_back: false }
    const set = (name, value) => { this.settings[name] = value; tell() }
    this.modes = segments('What of the driver moves the person', [['head', 'Whole head'], ['face', 'Face only']], 'head', mode => set('mode', mode))
    this.mirror = toggle('Mirror', true, on => { set('mirror', on); this.video.classList.toggle('mirrored', on) })
    this.video.classList.add('mirrored')
    this.beside = toggle('Driver beside', false, on => set('side_by_side', on))
    const full = toggle('Full picture', false, on => {
      this.#stopSource()
      this.ready = false
      this.stream.tell({ type: 'person', id: this.person.id, full_picture: on })
    })
    this.fullInput = full.input
    const strength = el('output', {}, '1.0')
    const range = el('input', { type: 'range', id: 'exaggerate', min: 0, max: 2, step: 0.1, value: 1, oninput: () => { strength.value = Number(range.value).toFixed(1); set('exaggerate', Number(range.value)) } })
    this.recalibrateButton = el('button', { type: 'button', disabled: true, title: 'Take your face as it is now for your usual one', onclick: () => this.#recalibrate() }, 'Recalibrate')
    this.forDrivers = [this.mirror.node, this.beside.node, full.node, this.recalibrateButton]
    this.settingsCard = el('section', { class: 'card', 'aria-label': 'Settings' },
      this.modes.node,
      el('p', { class: 'note' }, 'Whole head: your turns, expressions and gaze. Face only: your expressions and gaze, while the head moves as in the person’s own video.'),
      el('div', { class: 'settings' }, this.mirror.node, this.beside.node, full.node, this.recalibrateButton,
        el('div', { class: 'slider full' }, el('label', { for: 'exaggerate' }, 'Expressions'), range, strength)),
      el('details', {}, el('summary', {}, 'Keys'), el('p', { class: 'note' }, ...[['c', 'recalibrate'], ['m', 'mirror'], ['f', 'head or face'], ['s', 'driver beside it'], ['r', 'record']].flatMap(([key, text]) => [el('kbd', {}, key), ` ${text}  `]))))
    return this.settingsCard
  }

  #tellSettings() {
    if (!this.ready) return
    const { paste_back, ...others } = this.settings
    this.stream.tell({ type: 'settings', ...others, paste_back: Boolean(this.told.full_picture && paste_back), mirror: this.kind === 'camera' && others.mirror })
  }

  #recalibrate() {
    this.stream.tell({ type: 'recalibrate' })
    toast('Look straight ahead for a second.')
  }

  #key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey || /^(INPUT|TEXTAREA|SELECT)$/.test(e.target.tagName) && e.target.type !== 'range' && e.target.type !== 'checkbox') return
    const action = {
      c: () => this.recalibrateButton.click(),
      m: () => this.mirror.input.click(),
      f: () => { this.settings.mode = this.settings.mode === 'head' ? 'face' : 'head'; this.modes.choose(this.settings.mode); this.#tellSettings() },
      s: () => this.beside.input.click(),
      r: () => this.recordButton.click(),
    }[e.key]
    if (action) { e.preventDefault(); action() }
  }

  // ---- recording ----

  #recordBar() {
    this.recordButton = el('button', { type: 'button', disabled: true, onclick: () => this.recordingSince ? this.stream.tell({ type: 'record', on: false }) : this.#record(), title: 'A video of what you see, marked as synthetic. A video that drives gives its own sound.' }, '● Record')
    this.soundToggle = toggle('microphone', false, () => {})
    return el('div', { class: 'row', role: 'group', 'aria-label': 'Recording' }, this.soundToggle.node, this.recordButton)
  }

  async #record() {
    const sound = this.kind === 'camera' && this.soundToggle.input.checked
    this.recordButton.disabled = true
    if (sound) {
      this.microphone = new Microphone(this.stream)
      try {
        await this.microphone.start()
      } catch (error) {
        this.microphone.stop()
        this.microphone = null
        toast(`The microphone does not start (${error.name}); allow it, or record without.`)
        this.#enable()
        return
      }
    }
    this.stream.tell({ type: 'record', on: true, sound })
  }

  #recordingChanged(told) {
    this.recordingSince = told.on ? performance.now() : 0
    this.clock.hidden = !told.on
    this.clock.textContent = '● 0 s'
    this.recordButton.textContent = told.on ? '■ End the recording' : '● Record'
    this.recordButton.classList.toggle('recording', told.on)
    this.beside.input.disabled = this.fullInput.disabled = Boolean(told.on)
    if (!told.on) {
      if (this.microphone) { this.microphone.stop(); this.microphone = null }
      if (told.name) this.#showRecording(told.name)
    }
    this.#enable()
  }

  async #showRecording(name) {
    try {
      const found = (await get('/api/state')).recordings.find(r => r.name === name)
      if (found) { this.made.prepend(recordingCard(found)); toast('Recorded: it is below, and under Recordings.') }
    } catch (error) { say(error) }
  }
}
