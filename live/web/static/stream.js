// The connection to the engine: messages, pictures there and back (live/web/wire.py). One picture is on its way there at a time.

const HEAD = 16
const STATES = ['calibrating', 'driving', 'lost']

export class Stream {
  // show(bitmap): draws a picture. on: functions by a message's type, and picture(info), closed(busy).
  constructor(show, on) {
    this.show = show
    this.on = on
    this.free = false // the server has taken the last picture
    this.delays = []
    this.times = []
    this.socket = new WebSocket(`${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/live`)
    this.socket.binaryType = 'arraybuffer'
    this.opened = new Promise((resolve, reject) => {
      this.socket.onopen = () => { this.tell({ type: 'hello', now: performance.now() }); resolve() }
      this.socket.onerror = () => reject(new Error('the server does not answer; is it still running?'))
    })
    this.socket.onmessage = e => typeof e.data === 'string' ? this.#message(JSON.parse(e.data)) : this.#picture(e.data)
    this.socket.onclose = () => { if (!this.left) on.closed(this.busy) }
    this.left = false
    this.busy = false
  }

  tell(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message))
  }

  // A camera's picture (a JPEG's bytes), taken at `time` of performance.now().
  sendPicture(bytes, time) {
    this.free = false
    this.#send(1, 0, time, bytes)
  }

  // Sound of the microphone: Float32Array, one channel.
  sendSound(samples, rate, time) {
    this.#send(2, rate, time, samples.buffer)
  }

  close() {
    this.left = true
    this.socket.close()
  }

  // Pictures a second and median delay in ms of the last seconds; NaN while there are none.
  figures() {
    const now = performance.now()
    this.times = this.times.filter(t => now - t < 3000)
    const recent = this.delays.slice(-60).sort((a, b) => a - b)
    const span = this.times[this.times.length - 1] - this.times[0]
    return {
      fps: span > 500 ? 1000 * (this.times.length - 1) / span : NaN, // not of a first burst
      delay: recent.length ? recent[recent.length >> 1] : NaN,
    }
  }

  #send(kind, number, time, body) {
    if (this.socket.readyState !== WebSocket.OPEN) return
    const message = new Uint8Array(HEAD + body.byteLength)
    const head = new DataView(message.buffer)
    head.setUint8(0, kind)
    head.setUint32(4, number, true)
    head.setFloat64(8, time, true)
    message.set(new Uint8Array(body), HEAD)
    this.socket.send(message)
  }

  #message(told) {
    if (told.type === 'next') this.free = true
    else if (told.type === 'busy') this.busy = true
    else if (this.on[told.type]) this.on[told.type](told)
  }

  async #picture(data) {
    const head = new DataView(data)
    const info = { state: STATES[head.getUint8(1)], number: head.getUint32(4, true), time: head.getFloat64(8, true) }
    try {
      const bitmap = await createImageBitmap(new Blob([new Uint8Array(data, HEAD)], { type: 'image/jpeg' }))
      await new Promise(resolve => requestAnimationFrame(resolve))
      this.show(bitmap)
      const now = performance.now()
      this.times.push(now)
      if (this.camera && now - info.time < 60000) {
        this.delays.push(now - info.time)
        document.dispatchEvent(new CustomEvent('shown', { detail: now - info.time })) // for scripts/bench/page.py
        if (this.delays.length > 240) this.delays.splice(0, 120)
      }
      this.on.picture(info)
    } finally {
      if (this.socket.readyState === WebSocket.OPEN) this.socket.send(new Uint8Array(0)) // it was shown
    }
  }
}
