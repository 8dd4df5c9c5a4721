// The page in the browser's language: English texts are replaced where they stand, by a catalogue of
// app/words/. What the user wrote is left alone, and so is what no entry fits.
(() => {
  const offered = ['en', ...window.rarebitLanguages];
  const wanted = navigator.languages.map((one) => one.slice(0, 2).toLowerCase());
  const language = wanted.find((one) => offered.includes(one)) ?? 'en';
  if (language === 'en') return;

  const THEIRS = `script, style, code, pre, textarea, blockquote, mark, [translate=no], .caption-label,
    .thumbnail-item, .run-head h2, .board thead, .whole b`;
  const ATTRIBUTES = ['placeholder', 'aria-label', 'title', 'alt'];
  // Signs around a text belong to what stands beside it; tests/app/page_words.py cuts the same.
  const SIGNS = /^([\s,.;:·()+…✕!]*)(.*?)([\s,;:·(+]*)$/s;
  // How sentences, lists and names are joined.
  const JOINTS = [[/(?<=[.!?…)]) /, ' '], ...[' · ', '; ', ': ', ' and ', ', ', ' × ', ' = '].map((one) => [one, one])];
  // Beside Chinese characters stand Chinese signs, also where a text was put together; a thousand is
  // 1.000 in German.
  const FULL = { ',': '，', ':': '：', ';': '；', '?': '？', '!': '！', '.': '。' };
  const BESIDE = new RegExp([
    /(?<=\p{Script=Han}|[”》）%])\s*(?:[,:;?!]|\.(?![\w.]))\s*/,
    /(?<=\w)[,:;](?:\s+(?=\d*\s*[\p{Script=Han}“])|(?=[\p{Script=Han}“]))/,
    /^\s*[,:;]\s*(?=[\d\s]*[\p{Script=Han}“])/,
  ].map((one) => one.source).join('|'), 'gu');
  const locally = {
    de: (text) => text
      .replace(/(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d.,]\d)/g, (one) => one.replaceAll(',', '.')),
    zh: (text) => text
      .replace(/\s*\(([^()]*\p{Script=Han}[^()]*)\)/gu, '（$1）')
      .replace(BESIDE, (sign) => FULL[sign.trim()])
      .replace(/([，：；？！。]) (?=\S)/g, '$1'),
  };
  const memory = new Map();
  let words = {};
  let patterns = [];

  const STOP = /[.。]$/;
  const pattern = (whole) => {
    const [key, text] = STOP.test(words[whole]) ? [whole, words[whole]].map((one) => one.replace(STOP, ''))
      : [whole, words[whole]];
    const fixed = key.split('{}');
    const isVague = /^[\s\d]*\p{L}*[\s.]*$/u.test(fixed.join(' '));
    const slot = isVague ? '([\\d.,–]+)' : '(.*?)';
    const source = fixed.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join(slot);
    // What stands at an end could swallow a clause more.
    const ends = [key.startsWith('{}') && 1, key.endsWith('{}') && fixed.length - 1].filter(Boolean);
    const opens = key.endsWith('{}') && /[.:] $/.test(fixed.at(-2)); // for a sentence more
    return [new RegExp(`^${source}(\\.?)$`, 's'), text, ends, opens];
  };
  const length = (key) => key.replaceAll('{}', '').replace(STOP, '').length;
  const load = (catalogue) => {
    words = catalogue;
    patterns = Object.keys(words).filter((key) => key.includes('{}'))
      .sort((one, other) => length(other) - length(one)).map(pattern);
  };

  // A single word in a sentence is somebody's name as likely as one of the page's: it is said where
  // the translation has {!} for it.
  const part = (text) => (/\s/.test(text.trim()) ? say(text) : text);
  const fill = (text, slots) => {
    let next = 0;
    return text.replace(/\{(\d?)(!?)\}/g, (_, at, always) => {
      const slot = slots[at ? at - 1 : next++];
      return always ? say(slot) : part(slot);
    });
  };
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  // What has an entry, as it is or but for its stop, its capital or a number. `loosely`: slots at
  // its ends may hold several clauses.
  const known = (core, loosely) => {
    if (Object.hasOwn(words, core)) return words[core];
    if (words[`${core}.`]) return words[`${core}.`].replace(STOP, '');
    // A mistake in the middle of a line becomes a sentence.
    const inside = core[0]?.toLowerCase() + core.slice(1).replace(/\.$/, '');
    const stop = core.endsWith('.') ? '.' : '';
    if (/^\p{Lu}/u.test(core) && Object.hasOwn(words, inside)) return capital(words[inside] + stop);
    for (const [source, text, ends, opens] of patterns) {
      const match = source.exec(core);
      const fits = (at) => (opens && at === ends.at(-1) ? !/\s/.test(match[at]) || surely(match[at])
        : !/[.;:] /.test(match[at]));
      if (match && (loosely || ends.every(fits))) {
        return fill(text, match.slice(1, -1)) + match.at(-1);
      }
    }
    // A number before or after: "leak 0.19", "2 worth knowing".
    const [, count, rest] = /^([\d.,]+ )(.+)$/s.exec(core) ?? [];
    const [, text, end] = /^(.+?)( [\d.,]*\d)$/s.exec(core) ?? [];
    if (words[rest]) return count + words[rest];
    if (words[text]) return words[text] + end;
    const said = stop && known(core.slice(0, -1), loosely);
    return said ? said + stop : undefined;
  };
  // Two parts of a text: both have an entry, or one of them and the other is a name; `oneWill`: one.
  const joined = (core, oneWill) => {
    for (const [joint, glue] of JOINTS) {
      const pieces = core.split(joint);
      const between = glue === ' and ' ? ` ${words.and} ` : glue;
      for (let at = pieces.length - 1; at > 0; at -= 1) {
        const sides = [pieces.slice(0, at), pieces.slice(at)].map((one) => one.join(glue));
        const said = sides.map((one) => (/\s/.test(one) ? around(one, surely) : undefined));
        const fits = (side, n) => said[n] !== undefined || !/\s/.test(side);
        if (said.some((one) => one !== undefined) && (oneWill || sides.every(fits))) {
          return sides.map((side, n) => said[n] ?? part(side)).join(between);
        }
      }
      if (!oneWill || pieces.length < 2) continue;
      const isList = glue === ' · ';
      const said = pieces.map((one, at) => (isList && at ? say(one) : part(one)));
      if (said.some((one, at) => one !== pieces[at])) return said.join(between);
    }
    return undefined;
  };
  const sure = new Map();
  const surely = (core) => {
    if (!sure.has(core)) sure.set(core, known(core) ?? joined(core));
    return sure.get(core);
  };
  // A text without the signs around it is said by `how`; undefined where it cannot be.
  const around = (text, how) => {
    const [, before, core, after] = SIGNS.exec(text);
    const said = how(core.replace(/\s+/g, ' '));
    return said === undefined ? undefined : before + said + after;
  };
  const somehow = (core) => {
    const said = surely(core) ?? known(core, true) ?? joined(core, true);
    if (said === undefined) window.rarebitMissed?.add(core); // for tests
    return said;
  };
  const say = (text) => {
    if (!/\p{L}{2}/u.test(text)) return text;
    if (memory.size > 5000) [memory, sure].forEach((one) => one.clear());
    if (!memory.has(text)) {
      const said = around(text, somehow)?.replace(/ …$/, '\u00a0…');
      memory.set(text, locally[language](said ?? text));
    }
    return memory.get(text);
  };
  window.rarebitSay = say;

  const put = new WeakMap(); // what stands in a text or an element's attributes by this script
  // A picture without a caption says so where its caption would stand.
  const isTheirs = (element, text) => element?.closest(THEIRS) && !/^(. )?no caption · /.test(text);
  const speakText = (node) => {
    if (put.get(node) === node.data || isTheirs(node.parentElement, node.data)) return;
    const said = say(node.data);
    put.set(node, said);
    if (said !== node.data) node.data = said;
  };
  const speakAttributes = (element) => {
    const before = put.get(element) ?? {};
    put.set(element, before);
    for (const name of ATTRIBUTES) {
      // Gradio says what a slider's two parts are, as their roles do.
      const text = element.getAttribute(name)?.replace(/^(number input|range slider) for /, '');
      if (!text || before[name] === text || isTheirs(element.parentElement, text)) continue;
      before[name] = say(text);
      if (before[name] !== text) element.setAttribute(name, before[name]);
    }
  };
  // A sentence that elements stand in, such as names in bold: said as one, with them in its slots.
  const MARK = 0xe000; // Unicode's first private character
  const speakWhole = (sentence) => {
    const parts = [...sentence.children];
    const text = [...sentence.childNodes].map((node) => (node.nodeType === Node.TEXT_NODE ? node.data
      : String.fromCharCode(MARK + parts.indexOf(node)))).join('');
    if (put.get(sentence)) return;
    const pieces = say(text).split(/([\ue000-\ue0ff])/);
    sentence.replaceChildren(...pieces.map((one) => parts[one.charCodeAt() - MARK] ?? one));
    for (const node of sentence.childNodes) if (node.nodeType === Node.TEXT_NODE) put.set(node, node.data);
  };
  const speak = (root) => {
    if (root.nodeType === Node.TEXT_NODE) return speakText(root);
    if (root.nodeType !== Node.ELEMENT_NODE) return undefined;
    const all = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = root; node; node = all.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) speakText(node);
      else {
        if (node.matches('.whole')) speakWhole(node);
        speakAttributes(node);
      }
    }
    return undefined;
  };

  // What a closed list shows is no text of the page. It is put back before the list is opened, since
  // gradio looks for what stands there among its choices.
  const closed = new WeakMap();
  const speakLists = () => {
    for (const input of document.querySelectorAll('input[role=combobox], input[role=listbox]')) {
      const said = say(input.value);
      if (input === document.activeElement || said === input.value) continue;
      closed.set(input, [said, input.value]);
      input.value = said;
    }
  };
  const openList = ({ target }) => {
    const [said, value] = closed.get(target) ?? [];
    if (said && target.value === said) target.value = value;
  };

  const start = (catalogue) => {
    load(catalogue);
    document.documentElement.lang = language;
    new MutationObserver((changes) => {
      for (const { type, target, addedNodes } of changes) {
        if (type === 'childList') addedNodes.forEach(speak);
        else if (type === 'attributes') speakAttributes(target);
        else speakText(target);
      }
    }).observe(document.body, {
      childList: true, subtree: true, characterData: true, attributeFilter: ATTRIBUTES,
    });
    speak(document.body);
    document.addEventListener('focusin', openList);
    setInterval(speakLists, 500);
  };
  fetch(`words/${language}.json`).then((answer) => answer.json()).then(start);
})();
