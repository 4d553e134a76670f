// The viewer of figures: a figure as large as the window allows, or in detail, where it is scrolled.

const STEP = 80; // pixels by which an arrow key scrolls
const SWIPE = 60; // pixels by which a finger must move to the side

class FigureViewer {
  constructor() {
    this.dialog = document.getElementById("viewer");
    this.stage = document.getElementById("stage");
    this.image = this.stage.querySelector("img");
    this.zoomButton = this.dialog.querySelector(".zoom");
    this.links = [];
    this.place = 0;
    this.detailed = false;
  }

  start() {
    document.addEventListener("click", (event) => {
      const link = event.target.closest(".enlarge");
      if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return; // opens in a new tab
      event.preventDefault();
      this.open(link);
    });
    const actions = { close: () => this.dialog.close(), previous: () => this.step(-1), next: () => this.step(1), zoom: () => this.zoom() };
    for (const [name, action] of Object.entries(actions)) {
      this.dialog.querySelector(`.${name}`).addEventListener("click", action);
    }
    this.dialog.addEventListener("close", () => this.links[this.place].focus());
    this.dialog.addEventListener("keydown", (event) => this.press(event));
    this.image.addEventListener("load", () => this.fit());
    new ResizeObserver(() => this.fit()).observe(this.stage);
    this.startPointer();
  }

  // A click changes the size, at the point that was clicked. In detail, a mouse that is moved while it is pressed scrolls,
  // as a finger does without help. A finger that swipes over a whole figure shows the next one.
  startPointer() {
    let moved = 0;
    let start = null;
    this.stage.addEventListener("touchstart", (event) => { start = event.touches.length === 1 ? event.touches[0] : null; }, { passive: true });
    this.stage.addEventListener("touchend", (event) => {
      if (!start || this.detailed || visualViewport.scale > 1) return;
      const [end] = event.changedTouches;
      const [x, y] = [end.clientX - start.clientX, end.clientY - start.clientY];
      if (Math.abs(x) > SWIPE && Math.abs(x) > 2 * Math.abs(y)) this.step(x < 0 ? 1 : -1);
    });
    this.image.addEventListener("pointerdown", () => { moved = 0; });
    this.image.addEventListener("pointermove", (event) => {
      if (event.pointerType !== "mouse" || event.buttons !== 1 || !this.detailed) return;
      moved += Math.abs(event.movementX) + Math.abs(event.movementY);
      this.stage.scrollBy({ left: -event.movementX, top: -event.movementY, behavior: "instant" });
    });
    this.image.addEventListener("dragstart", (event) => event.preventDefault());
    this.image.addEventListener("click", (event) => {
      const box = this.image.getBoundingClientRect();
      if (moved < 4) this.zoom((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
  }

  open(link) {
    const gallery = [...document.querySelectorAll(".gallery[open] .enlarge")];
    this.links = gallery.includes(link) ? gallery : [link];
    this.dialog.showModal();
    this.show(this.links.indexOf(link));
    this.stage.focus();
  }

  step(by) {
    this.show((this.place + by + this.links.length) % this.links.length);
  }

  show(place) {
    const link = this.links[place];
    const small = link.querySelector("img");
    const [title, ...caption] = link.parentElement.querySelector("figcaption").childNodes;
    const several = this.links.length > 1;
    this.place = place;
    this.setDetailed(false);
    this.image.src = link.href;
    this.image.alt = small.alt;
    document.getElementById("viewer-title").textContent = title.textContent;
    document.getElementById("viewer-caption").replaceChildren(...caption.map((node) => node.cloneNode(true)));
    document.getElementById("viewer-place").textContent = several ? `${place + 1} of ${this.links.length}` : "";
    for (const button of this.dialog.querySelectorAll(".previous, .next")) button.hidden = !several;
    this.fit();
  }

  setDetailed(detailed) {
    this.detailed = detailed;
    this.stage.classList.toggle("detailed", detailed);
    this.zoomButton.textContent = detailed ? "Whole figure" : "Enlarge";
  }

  zoom(x = 0.5, y = 0.5) {
    this.setDetailed(!this.detailed);
    this.fit();
    const { image, stage } = this;
    stage.scrollTo({ left: x * image.offsetWidth - stage.clientWidth / 2, top: y * image.offsetHeight - stage.clientHeight / 2, behavior: "instant" });
  }

  // Details have the natural size, unless the whole figure is hardly smaller than that: then twice its size.
  fit() {
    const { naturalWidth: width, naturalHeight: height } = this.image;
    if (!width || !this.dialog.open) return;
    const whole = Math.min(this.stage.clientWidth / width, this.stage.clientHeight / height);
    const detail = whole < 0.8 ? 1 : 2 * whole;
    this.image.style.width = `${width * (this.detailed ? detail : whole)}px`;
  }

  press(event) {
    if (event.key === "Enter" && event.target === this.stage) this.zoom();
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!ways[event.key] || event.ctrlKey || event.altKey || event.metaKey) return;
    const [x, y] = ways[event.key];
    if (this.detailed) this.stage.scrollBy({ left: x * STEP, top: y * STEP, behavior: "instant" });
    else if (x) this.step(x);
    event.preventDefault();
  }
}
