// The camera: its newest picture goes to the stream whenever the server is ready for one.

const WIDTH = 640, HEIGHT = 480, RATE = 30
const QUALITY = 0.85

export const hidden = () => !(window.isSecureContext && navigator.mediaDevices && navigator.mediaDevices.getUserMedia)

export function hiddenText() {
  const port = location.port ? `:${location.port}` : ''
  return `Your browser hides the camera from this page, because the connection is not secure. On the machine that runs the server open it as http://localhost${port}; from elsewhere, start the server with --tls and open it as https://${location.host}.`
}

export function whyNot(error) {
  return {
    NotAllowedError: 'the browser did not allow the camera; allow it beside the address, then try again',
    NotFoundError: 'there is no camera on this machine; drive with a video, a motion file or the sliders',
    NotReadableError: 'another program uses the camera; end that, then try again',
    OverconstrainedError: 'the camera does not work at this size; choose another',
  }[error.name] || `the camera does not start (${error.name})`
}

export async function cameras() {
  try {
    return (await navigator.mediaDevices.enumerateDevices()).filter(d => d.kind === 'videoinput')
  } catch { return [] }
}

export class Camera {
  // video: the element that shows the camera itself.
  constructor(stream, video) {
    this.stream = stream
    this.video = video
    this.canvas = typeof OffscreenCanvas === 'undefined' ? document.createElement('canvas') : new OffscreenCanvas(WIDTH, HEIGHT)
    this.encoding = false
    this.running = false
  }

  async start(device) {
    const wanted = { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, frameRate: { ideal: RATE } }
    if (device) wanted.deviceId = { exact: device }
    else wanted.facingMode = 'user'
    this.media = await navigator.mediaDevices.getUserMedia({ video: wanted, audio: false })
    this.video.srcObject = this.media
    this.video.muted = true
    await this.video.play()
    this.running = true
    this.stream.free = true
    this.#wait()
  }

  stop() {
    this.running = false
    if (this.media) for (const track of this.media.getTracks()) track.stop()
    this.video.srcObject = null
  }

  #wait() {
    if (!this.running) return
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback((now, frame) => this.#take(frame.captureTime ?? now))
    else requestAnimationFrame(now => this.#take(now))
  }

  async #take(time) {
    this.#wait()
    const { videoWidth: w, videoHeight: h } = this.video
    if (!this.running || !this.stream.free || this.encoding || !w) return
    this.encoding = true
    try {
      const scale = Math.min(1, HEIGHT / Math.min(w, h))
      this.canvas.width = Math.round(w * scale)
      this.canvas.height = Math.round(h * scale)
      this.canvas.getContext('2d', { alpha: false }).drawImage(this.video, 0, 0, this.canvas.width, this.canvas.height)
      const how = { type: 'image/jpeg', quality: QUALITY }
      const blob = this.canvas.convertToBlob
        ? await this.canvas.convertToBlob(how)
        : await new Promise(resolve => this.canvas.toBlob(resolve, how.type, how.quality))
      const bytes = await blob.arrayBuffer()
      if (this.running) this.stream.sendPicture(bytes, time)
    } finally {
      this.encoding = false
    }
  }
}
