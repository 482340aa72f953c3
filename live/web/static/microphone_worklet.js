// Runs in the browser's audio thread: gathers samples into pieces of about 40 ms.

class Samples extends AudioWorkletProcessor {
  constructor() {
    super()
    this.piece = new Float32Array(2048)
    this.count = 0
  }

  process(inputs) {
    const heard = inputs[0][0]
    if (heard) {
      this.piece.set(heard, this.count)
      this.count += heard.length
      if (this.count + heard.length > this.piece.length) {
        const samples = this.piece.slice(0, this.count)
        this.port.postMessage({ samples, end: currentTime + heard.length / sampleRate }, [samples.buffer])
        this.count = 0
      }
    }
    return true
  }
}

registerProcessor('samples', Samples)
