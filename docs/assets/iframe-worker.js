// Search in a page that was opened from the disk: browsers start no Worker there, so its script runs in a hidden frame.
// By its name the offline plugin of Material knows that it need not load one from the network.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      this.scope = frame.contentWindow;
      this.scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.scope.importScripts = (...urls) => urls.reduce((before, next) => before.then(() => this.run(next)), Promise.resolve());
      this.running = this.run(url);
    }

    run(url) {
      return new Promise((resolve, reject) => {
        const script = this.scope.document.createElement("script");
        Object.assign(script, { src: url, onload: resolve, onerror: reject });
        this.scope.document.body.append(script);
      });
    }

    postMessage(data) {
      this.running.then(() => this.scope.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
