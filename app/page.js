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
    const chosen = nameOf(tabs.find(isChosen));
    if (chosen) remember(chosen);
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
      new Notification('Rarebit', { body: ended });
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
