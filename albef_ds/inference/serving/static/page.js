"use strict";
// The page of `albef-ds serve`: builds queries, shows hits, opens one to ground words in it or to ask. Text is never parsed as HTML.

const at = (id) => document.getElementById(id);
const LARGEST = 16e6; // bytes of an uploaded file
let terms = []; // {text} or {picture, name} or {image, name, url}, each with wanted
let opened = null; // the hit in the viewer
let last = null; // terms of the search that is shown
let version = null;
let latest = 0; // number of the newest search; answers of older ones are dropped

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function call(path, body) {
  let response, content;
  try {
    response = await fetch(path, body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    content = await response.json();
  } catch {
    throw new Error("the server does not answer: is it still running?");
  }
  if (!response.ok) throw new Error(content.error || `the server answered ${response.status}`);
  return content;
}

function showTerms() {
  at("terms").replaceChildren(...terms.map((term, place) => {
    const name = term.text ?? term.name;
    const sign = element("button", { type: "button", className: "sign", textContent: term.wanted ? "+" : "−",
      ariaLabel: `${term.wanted ? "wanted" : "unwanted"}: ${name}. Press to change`, title: "wanted or unwanted" });
    sign.onclick = () => { term.wanted = !term.wanted; showTerms(); at("terms").children[place].firstChild.focus(); };
    const remove = element("button", { type: "button", textContent: "×", ariaLabel: `leave out ${name}` });
    remove.onclick = () => { terms.splice(place, 1); showTerms(); at("words").focus(); };
    const shown = term.url ? [element("img", { src: term.url, alt: "" })] : [];
    return element("li", { className: term.wanted ? "" : "unwanted" }, sign, ...shown, element("span", { textContent: name }), remove);
  }));
}

function addWords(wanted) {
  const text = at("words").value.trim();
  if (text) terms.push({ text, wanted });
  at("words").value = "";
  showTerms();
  at("words").focus();
}

async function addFile(file) {
  at("message").textContent = "";
  if (!file) return;
  if (file.size > LARGEST) { at("message").textContent = `${file.name} has more than 16 MB: give a smaller image`; return; }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 32768) text += String.fromCharCode(...bytes.subarray(start, start + 32768));
  terms.push({ image: btoa(text), name: file.name, url: URL.createObjectURL(file), wanted: true });
  showTerms();
  search();
}

function sent(term) {
  if (term.text !== undefined) return { text: term.text, wanted: term.wanted };
  return term.picture ? { picture: term.picture, wanted: term.wanted } : { image: term.image, wanted: term.wanted };
}

function search() {
  const text = at("words").value.trim();
  last = text ? [{ text, wanted: true }, ...terms] : [...terms];
  return run(true);
}

async function run(announce) {
  if (!last.length) { at("message").textContent = "The query is empty: write words, or add an image."; return; }
  const number = ++latest;
  at("message").textContent = "";
  if (announce) at("summary").textContent = "searching …";
  try {
    const rerank = Math.min(256, Math.max(0, Math.round(Number(at("rerank").value) || 0)));
    const found = await call("api/search", { terms: last.map(sent), rerank });
    if (number !== latest) return;
    const recall = found.recall === null ? "" : `, approximate (recall ${found.recall.toFixed(3)})`;
    at("summary").textContent = `${found.hits.length} of ${found.pictures.toLocaleString("en")} images, ${found.seconds.toFixed(2)} s${recall}`;
    showHits(found.hits);
  } catch (error) {
    if (number !== latest) return;
    at("summary").textContent = "";
    at("message").textContent = error.message;
  }
}

function showHits(hits) {
  const focused = document.activeElement?.dataset?.picture;
  at("hits").replaceChildren(...hits.map((hit) => {
    const match = hit.match === null ? "" : ` · match\u00a0${hit.match.toFixed(3)}`;
    const image = element("img", { src: `api/pictures/${hit.picture}`, alt: "", loading: "lazy" });
    const button = element("button", { type: "button" }, image, element("span", { className: "name", textContent: hit.name }),
      element("span", { className: "score", textContent: `ITC\u00a0${hit.similarity.toFixed(3)}${match}` }));
    button.dataset.picture = hit.picture;
    button.onclick = () => open(hit);
    return element("li", {}, button);
  }));
  if (focused) document.querySelector(`[data-picture="${focused}"]`)?.focus();
}

function open(hit) {
  opened = hit;
  at("name").textContent = hit.name;
  for (const id of ["maps", "answers"]) at(id).replaceChildren();
  for (const id of ["trouble", "caption"]) at(id).textContent = "";
  at("place").value = last.find((term) => term.text !== undefined && term.wanted)?.text ?? "";
  plain();
  at("viewer").showModal();
  at("place").focus();
}

function plain() {
  at("large").src = `api/pictures/${opened.picture}?size=1280`;
  at("large").alt = opened.name;
  at("plain").hidden = true;
  at("caption").textContent = "";
}

function heat(source, words) {
  at("large").src = source;
  at("large").alt = `${opened.name}, heat map of “${words}”`;
  at("caption").textContent = `where the model sees “${words}”`;
  at("plain").hidden = false;
}

async function working(button, what) {
  at("trouble").textContent = "";
  button.disabled = true;
  const hit = opened;
  try { await what(() => hit === opened && at("viewer").open); } catch (error) { if (hit === opened) at("trouble").textContent = error.message; }
  button.disabled = false;
}

at("query").onsubmit = (event) => { event.preventDefault(); search(); };
at("with").onclick = () => addWords(true);
at("without").onclick = () => addWords(false);
at("file").onchange = () => { addFile(at("file").files[0]); at("file").value = ""; };
at("close").onclick = () => at("viewer").close();
at("viewer").onclose = () => document.querySelector(`[data-picture="${opened?.picture}"]`)?.focus();
at("plain").onclick = plain;
for (const [id, wanted] of [["like", true], ["unlike", false]]) {
  at(id).onclick = () => {
    terms.push({ picture: opened.picture, name: opened.name, url: `api/pictures/${opened.picture}`, wanted });
    at("viewer").close();
    showTerms();
    search();
  };
}
at("ground").onsubmit = (event) => {
  event.preventDefault();
  const text = at("place").value.trim();
  if (text) working(event.submitter, async (current) => {
    const found = await call("api/ground", { picture: opened.picture, text });
    if (!current()) return;
    heat(found.image, found.text);
    at("maps").replaceChildren(...found.words.map(({ word, image }) => {
      const button = element("button", { type: "button", title: word }, element("img", { src: image, alt: "" }), word);
      button.onclick = () => heat(image, word);
      return element("li", {}, button);
    }));
  });
};
at("ask").onsubmit = (event) => {
  event.preventDefault();
  const question = at("question").value.trim();
  if (question) working(event.submitter, async (current) => {
    const found = await call("api/ask", { picture: opened.picture, question });
    if (current()) at("answers").replaceChildren(...found.answers.map(({ answer, probability }) =>
      element("li", {}, element("span", { textContent: probability.toFixed(3) }), answer)));
  });
};
document.ondragover = (event) => { event.preventDefault(); document.body.classList.add("dropping"); };
document.ondragleave = (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); };
document.ondrop = (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  if (event.dataTransfer.files.length) addFile(event.dataTransfer.files[0]);
};

function progress({ done, total, seconds_left }) {
  if (!total) return ", reading the folders";
  const left = seconds_left === null ? "" : seconds_left < 100 ? `, ${Math.ceil(seconds_left)} s left` : `, ${Math.round(seconds_left / 60)} min left`;
  return ` can be searched; indexing ${done.toLocaleString("en")} of ${total.toLocaleString("en")} new ones${left}`;
}

async function follow() {
  try {
    const now = await call("api/status");
    const count = `${now.pictures.toLocaleString("en")} images${now.indexing ? progress(now.indexing) : ""}`;
    const state = now.problem ? `${count}; ${now.problem}` : count;
    if (at("state").textContent !== state) at("state").textContent = state;
    at("ask").hidden = !now.can_ask;
    at("broken").hidden = !now.num_unreadable;
    at("broken").firstChild.textContent = `${now.num_unreadable.toLocaleString("en")} files cannot be read`;
    at("broken").lastChild.replaceChildren(...now.unreadable.map(({ name, reason }) => element("li", { textContent: `${name}: ${reason}` })));
    if (version !== null && version !== now.version && last?.length) run(false);
    version = now.version;
  } catch (error) {
    at("state").textContent = error.message;
  }
  setTimeout(follow, 2000);
}
follow();
