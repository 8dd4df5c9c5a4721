// The tab stands in the address, so that a reload, or the server's return, leads back to it, and
// the browser's Back goes to the tab before.
// All of it looks at what the page shows: a click before the page is alive is lost, and so are the
// events that the page's framework would tell of it, however long a busy machine takes to wake.
(() => {
  if (window.rarebitPage) return;
  window.rarebitPage = true;
  const SETTLED = 5; // looks in a row that find the tab chosen: what is late may choose the first
  const nameOf = (node) => /^tab-([a-z]+)-button$/.exec(node?.id ?? '')?.[1];
  const isChosen = (node) => node.getAttribute('aria-selected') === 'true';
  const remember = (name) => {
    if (location.hash === `#${name}`) return;
    history[location.hash ? 'pushState' : 'replaceState'](null, '', `#${name}`);
  };
  let row = null; // of tabs; another one is a page made anew
  let wanted = ''; // the tab to go back to
  let found = 0;
  let shown = null; // the tab chosen when last looked
  const goBack = () => {
    wanted = location.hash.slice(1);
    found = 0;
  };

  addEventListener('popstate', goBack);
  addEventListener('hashchange', goBack);
  document.addEventListener('click', (event) => {
    const name = event.isTrusted && nameOf(event.target.closest?.('[role=tab]'));
    if (!name) return;
    found = SETTLED; // whoever looks at the page chooses
    remember(name);
  }, true);

  setInterval(() => {
    const tabs = [...document.querySelectorAll('#tabs [role=tab]')].filter(nameOf);
    if (!tabs.length) return;
    if (row !== tabs[0].parentElement) {
      row = tabs[0].parentElement;
      goBack();
    }
    const target = tabs.find((tab) => nameOf(tab) === wanted);
    if (found < SETTLED && target) {
      found = isChosen(target) ? found + 1 : 0;
      if (!found) target.click();
      return;
    }
    const chosen = tabs.find(isChosen);
    if (!chosen) return;
    // What led to another tab is hidden with its own: the keyboard goes on from the tab.
    if (shown && chosen !== shown && document.activeElement === document.body) chosen.focus();
    shown = chosen;
    remember(nameOf(chosen));
  }, 200);
})();

// While a run trains, the browser's tab tells how far it is; when it ends, a notification does,
// where the user has allowed one after pressing Start.
(() => {
  let told = '';
  document.addEventListener('click', (event) => {
    const starts = event.isTrusted && event.target.closest?.('#train-start, #train-queue');
    if (starts && window.Notification?.permission === 'default') Notification.requestPermission();
  }, true);
  setInterval(() => {
    const { percent, ended } = document.getElementById('progress')?.dataset ?? {};
    const title = percent ? `${percent} % · Rarebit` : 'Rarebit';
    if (document.title !== title) document.title = title;
    if (ended && ended !== told && document.hidden && window.Notification?.permission === 'granted') {
      new Notification('Rarebit', { body: window.rarebitSay?.(ended) ?? ended });
    }
    told = ended ?? told;
  }, 1000);
})();

// A picture enlarged in the page: arrow keys go through its neighbours, the slider compares it with
// what the base model drew, Esc closes.
(() => {
  const dialog = document.createElement('dialog');
  dialog.className = 'lightbox';
  dialog.innerHTML = `<figure><div class="pair"><img class="after"><img class="before"></div>
    <figcaption></figcaption></figure>
    <label>Base model <input type="range" min="0" max="100" value="0"> adapter</label>
    <form method="dialog"><button type="button" aria-label="Earlier picture">←</button>
    <button type="button" aria-label="Next picture">→</button><button>Close</button></form>`;
  const part = (selector) => dialog.querySelector(selector);
  let links = [];
  let at = 0;

  const compare = () => {
    part('.before').style.clipPath = `inset(0 0 0 ${part('input').value}%)`;
  };
  const show = (index) => {
    at = (index + links.length) % links.length;
    const link = links[at];
    part('.after').src = link.href;
    part('.after').alt = link.title;
    part('figcaption').textContent = link.title;
    const base = link.dataset.base;
    part('label').hidden = part('.before').hidden = !base;
    part('.before').src = base || link.href;
    part('.before').alt = '';
    part('input').value = 100;
    compare();
  };

  dialog.addEventListener('input', compare);
  dialog.addEventListener('keydown', (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.target.matches('input')) return;
    event.preventDefault();
    show(at + step);
  });
  dialog.addEventListener('click', (event) => {
    if (event.target === dialog) dialog.close();
    const turn = event.target.closest('button[aria-label]');
    if (turn) show(at + (turn.textContent === '→' ? 1 : -1));
  });
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('.enlarge a');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    links = [...link.closest('.enlarge').querySelectorAll('a')];
    if (!dialog.isConnected) document.body.append(dialog);
    show(links.indexOf(link));
    dialog.showModal();
  });
})();

// Enter with Ctrl, Shift or the command key draws, as in other tools.
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey || event.shiftKey)) return;
  if (!event.target.closest?.('#generate-prompt')) return;
  event.preventDefault();
  document.getElementById('generate-draw').click();
}, true);

// Find a setting: only those fields are shown whose words hold all that is typed. A folded section
// has no fields in the page until it is opened: all are opened first, and those that come late are
// looked through as they come. An empty search shows everything again.
(() => {
  let words = [];
  const show = () => {
    for (const section of document.querySelectorAll('[id^="train-section-"]')) {
      const fields = [...section.querySelectorAll('[id^="train-"]')];
      const fitting = fields.filter((field) => {
        const text = `${field.id} ${field.textContent}`.toLowerCase();
        const fits = words.every((word) => text.includes(word));
        field.style.display = fits ? '' : 'none';
        return fits;
      });
      section.style.display = fields.length && !fitting.length ? 'none' : '';
    }
    const shown = document.querySelectorAll('[id^="train-section-"]:not([style*="none"])').length;
    document.getElementById('train-none')?.classList.toggle('seen', !shown);
  };
  document.addEventListener('input', (event) => {
    if (!event.target.closest?.('#train-find')) return;
    words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    const folded = words.length
      ? document.querySelectorAll('[id^="train-section-"] button.label-wrap:not(.open)') : [];
    for (const header of folded) header.click();
    for (const wait of [0, 200, 600, 1500, 4000]) setTimeout(show, wait);
  });
})();

// Keys: arrows, Home and End go through the tabs and through pictures beside each other; Esc answers
// a question by leaving everything as it is.
(() => {
  const LEAVE = {
    'runs-question': ['runs-delete-no', 'runs-delete'],
    'runs-length': ['runs-longer-no', 'runs-longer'],
    'runs-publishing': ['runs-publish-no', 'runs-publish'],
    'runs-others': ['runs-others-no', 'runs-prompts'],
    'images-question': ['images-delete-no', 'images-delete'],
    'images-remove-row': ['images-remove-no', 'images-remove'],
  }; // what is asked: the button that leaves it, and the one that had it asked
  const byId = (id) => document.getElementById(id);
  const below = (items, at, step) => {
    const { left, top } = items[at].getBoundingClientRect();
    const inColumn = (one) => Math.abs(one.getBoundingClientRect().left - left) < 4;
    const rows = items.filter(inColumn).map((one) => [one.getBoundingClientRect().top, one]);
    const next = rows.filter(([y]) => (y - top) * step > 4);
    return next.length ? items.indexOf(next.at(step > 0 ? 0 : -1)[1]) : at;
  };
  const place = (key, items, at) => ({
    ArrowLeft: () => Math.max(at - 1, 0),
    ArrowRight: () => Math.min(at + 1, items.length - 1),
    ArrowUp: () => below(items, at, -1),
    ArrowDown: () => below(items, at, 1),
    Home: () => 0,
    End: () => items.length - 1,
  })[key]?.();

  document.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.shiftKey) return;
    if (event.key === 'Escape' && !event.target.closest?.('dialog, [role=combobox]')) {
      const asked = Object.keys(LEAVE).find((id) => byId(id)?.checkVisibility());
      if (!asked) return;
      byId(LEAVE[asked][0])?.click();
      byId(LEAVE[asked][1])?.focus();
      return;
    }
    const button = event.target.closest?.('[role=tab], .grid-container button, [type=radio]');
    const row = button?.closest('[role=tablist], .grid-container, .wrap');
    if (!row) return;
    const isRadio = button.matches('[type=radio]');
    const kind = isRadio ? '[type=radio]' : '[role=tab], button';
    const items = [...row.querySelectorAll(kind)].filter((one) => one.checkVisibility());
    const key = (isRadio && { ArrowUp: 'ArrowLeft', ArrowDown: 'ArrowRight' }[event.key]) || event.key;
    const to = place(key, items, items.indexOf(button));
    if (to === undefined || !items[to]) return;
    event.preventDefault();
    items[to].focus();
    if (!button.matches('button:not([role=tab])')) items[to].click();
  }, true);

  // The radios of a list have names of their own in gradio 6.31, so that each is a stop of its own:
  // Tab goes to the chosen one, and from there out of the list.
  const others = (radio) => [...radio.closest('.wrap').querySelectorAll('[type=radio]')];
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Tab' || !event.target.matches?.('.wrap [type=radio]')) return;
    const left = others(event.target).filter((one) => one !== event.target);
    for (const one of left) one.tabIndex = -1;
    setTimeout(() => left.forEach((one) => one.removeAttribute('tabindex')));
  });
  document.addEventListener('focusin', (event) => {
    if (!event.target.matches?.('.wrap [type=radio]:focus-visible')) return;
    const list = others(event.target);
    if (list.includes(event.relatedTarget)) return;
    list.find((one) => one.checked)?.focus();
  });
})();
