// The microphone, for the sound of a recording: samples with the time at which they were heard, on the clock of performance.now().

const SETTLE_MS = 0.05 // by which the least delay seen is raised with every piece, so that a clock that drifts is followed

export class Microphone {
  constructor(stream) { this.stream = stream }

  async start() {
    this.media = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, autoGainControl: false }, video: false })
    this.context = new AudioContext()
    await this.context.audioWorklet.addModule('/static/microphone_worklet.js')
    const source = this.context.createMediaStreamSource(this.media)
    this.node = new AudioWorkletNode(this.context, 'samples', { numberOfInputs: 1, numberOfOutputs: 0, channelCount: 1, channelCountMode: 'explicit' })
    const rate = this.context.sampleRate
    let offset = Infinity // performance.now() less the audio clock, at the least delay
    this.node.port.onmessage = ({ data: { samples, end } }) => {
      offset = Math.min(offset + SETTLE_MS, performance.now() - 1000 * end)
      this.stream.sendSound(samples, rate, 1000 * (end - samples.length / rate) + offset)
    }
    source.connect(this.node)
    await this.context.resume()
  }

  stop() {
    if (this.node) this.node.port.onmessage = null
    if (this.media) for (const track of this.media.getTracks()) track.stop()
    if (this.context) this.context.close()
    this.media = this.context = this.node = null
  }
}
