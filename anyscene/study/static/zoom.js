// The enlarged picture: the foreground and what was made of it, in the same place one after another.

const zoom = document.getElementById("zoom");
const room = document.getElementById("zoom-room");
const image = document.getElementById("zoom-image");
const sources = ["foreground", "first", "second"]
  .map((id) => document.getElementById(id))
  .filter((source) => source !== null);
let shown = 0;

function enlarge(place) {
  shown = (place + sources.length) % sources.length;
  const source = sources[shown];
  image.src = source.src;
  image.alt = source.alt;
  document.getElementById("zoom-caption").textContent = source.alt;
  image.classList.toggle("canvas", source.id === "foreground");
  image.style.setProperty("--aspect", source.naturalWidth / source.naturalHeight);
  if (!zoom.open) zoom.showModal();
}

export function enlargeFirst() {
  enlarge(sources.findIndex((source) => source.id === "first"));
}

export function isEnlarged() {
  return zoom.open;
}

export function zoomKey(event) {
  if (event.key === "z" || event.key === "Z") zoom.close();
  else if (event.key === "ArrowLeft") enlarge(shown - 1);
  else if (event.key === "ArrowRight") enlarge(shown + 1);
  else if (event.key === " " && event.target === room) room.classList.toggle("double");
  else return;
  event.preventDefault();
}

sources.forEach((source, place) => {
  source.closest("button").addEventListener("click", () => enlarge(place));
});
room.addEventListener("click", () => room.classList.toggle("double"));
document.getElementById("zoom-close").addEventListener("click", () => zoom.close());
zoom.addEventListener("close", () => room.classList.remove("double"));
