// The page in the browser's language: English texts are replaced where they stand, by a catalogue of
// app/words/. What the user wrote is left alone, and so is what no entry fits.
(() => {
  const known = ['en', ...window.rarebitLanguages];
  const wanted = navigator.languages.map((one) => one.slice(0, 2).toLowerCase());
  const language = wanted.find((one) => known.includes(one)) ?? 'en';
  if (language === 'en') return;

  const THEIRS = `script, style, code, pre, textarea, blockquote, mark, [translate=no], .caption-label,
    .thumbnail-item, .run-head h2, .board thead, .question b`;
  const ATTRIBUTES = ['placeholder', 'aria-label', 'title', 'alt'];
  // Signs around a text belong to what stands beside it; tests/app/page_words.py cuts the same.
  const SIGNS = /^([\s,.;:·()+…✕!]*)(.*?)([\s,;:·(+]*)$/s;
  const JOINTS = [/(?<=[.!?…)]) /, ' · ', '; ', ': ', ' = ', ' × ', ' and ', ', '];
  const memory = new Map();
  let words = {};
  let patterns = [];

  const pattern = (key) => {
    const fixed = key.split('{}');
    const isVague = /^[\s\d]*\p{L}*[\s.]*$/u.test(fixed.join(' '));
    const slot = isVague ? '([\\d.,–]+)' : '(.*?)';
    const parts = fixed.map((part) => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
    const end = parts.pop();
    const last = end === '\\.' ? slot.replace('.*?', '(?:(?!\\. ).)*?') : slot; // one sentence
    const source = parts.join(slot) + last + end;
    return [new RegExp(`^${source}$`, 's'), words[key]];
  };
  const load = (catalogue) => {
    words = catalogue;
    patterns = Object.keys(words).filter((key) => key.includes('{}'))
      .sort((one, other) => other.length - one.length).map(pattern);
  };

  // A single word in a sentence is somebody's name as likely as one of the page's.
  const part = (text) => (/\s/.test(text.trim()) ? say(text) : text);
  const fill = (text, slots) => {
    let next = 0;
    return text.replace(/\{(\d?)\}/g, (_, at) => part(slots[at ? at - 1 : next++]));
  };
  const capital = (text) => text[0].toUpperCase() + text.slice(1);
  const whole = (core) => {
    if (Object.hasOwn(words, core)) return words[core];
    // A mistake in the middle of a line becomes a sentence.
    const inside = core[0]?.toLowerCase() + core.slice(1).replace(/\.$/, '');
    const stop = core.endsWith('.') ? '.' : '';
    if (/^\p{Lu}/u.test(core) && Object.hasOwn(words, inside)) return capital(words[inside] + stop);
    for (const [source, text] of patterns) {
      const match = source.exec(core);
      if (match) return fill(text, match.slice(1));
    }
    return undefined;
  };
  const found = (core) => {
    const text = whole(core);
    if (text !== undefined) return text;
    // "cat.txt: No picture beside it has its name. …": the message is looked for as one.
    const [, name, message] = /^([^:]+): (.+)$/s.exec(core) ?? [];
    const told = message && whole(message);
    if (told) return `${part(name)}: ${told}`;
    // A number before or after: "leak 0.19", "2 worth knowing".
    const [, number, rest] = /^([\d.,]+ )(.+)$/s.exec(core) ?? [];
    const [, start, end] = /^(.+?)( [\d.,]*\d)$/s.exec(core) ?? [];
    if (words[rest]) return number + words[rest];
    if (words[start]) return words[start] + end;
    for (const joint of JOINTS) {
      const pieces = core.split(joint);
      if (pieces.length < 2) continue;
      const isList = joint === ' · ';
      const said = pieces.map((one, at) => (isList && at ? say(one) : part(one)));
      const glue = joint === ' and ' ? ` ${words.and} ` : joint;
      if (said.some((one, at) => one !== pieces[at])) return said.join(joint.source ? ' ' : glue);
    }
    if (core.endsWith('.')) {
      const said = found(core.slice(0, -1));
      if (said !== core.slice(0, -1)) return `${said}.`;
    }
    window.rarebitMissed?.add(core); // for tests
    return core;
  };
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
  const say = (text) => {
    if (!/\p{L}{2}/u.test(text)) return text;
    if (!memory.has(text)) {
      if (memory.size > 5000) memory.clear();
      const [, before, core, after] = SIGNS.exec(text);
      const said = found(core.replace(/\s+/g, ' ')).replace(/ …$/, '\u00a0…');
      memory.set(text, locally[language](before + said + after));
    }
    return memory.get(text);
  };
  window.rarebitSay = say;

  // A picture without a caption says so where its caption would stand.
  const isTheirs = (element, text) => element?.closest(THEIRS) && !/^(. )?no caption · /.test(text);
  const put = new WeakMap(); // what stands in a text or an element's attributes by this script
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
  const speak = (root) => {
    if (root.nodeType === Node.TEXT_NODE) return speakText(root);
    if (root.nodeType !== Node.ELEMENT_NODE) return undefined;
    const all = document.createTreeWalker(root, NodeFilter.SHOW_ELEMENT | NodeFilter.SHOW_TEXT);
    for (let node = root; node; node = all.nextNode()) {
      if (node.nodeType === Node.TEXT_NODE) speakText(node);
      else speakAttributes(node);
    }
    return undefined;
  };

  // What a closed list shows is no text of the page. It is put back before the list is opened, since
  // gradio looks for what stands there among its choices.
  const closed = new WeakMap();
  const speakLists = () => {
    for (const input of document.querySelectorAll('input[role=combobox], input[role=listbox]')) {
      const said = part(input.value);
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
