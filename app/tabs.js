// The tab stands in the address, so that a reload, or the server's return, leads back to it.
// All of it looks at what the page shows: a click before the page is alive is lost, and so are the
// events that the page's framework would tell of it, however long a busy machine takes to wake.
(() => {
  if (window.rarebitTabs) return;
  window.rarebitTabs = true;
  const SETTLED = 5; // looks in a row that find the tab chosen: what is late may choose the first
  const nameOf = (node) => /^tab-([a-z]+)-button$/.exec(node?.id ?? '')?.[1];
  const isChosen = (node) => node.getAttribute('aria-selected') === 'true';
  const remember = (name) => history.replaceState(null, '', `#${name}`);
  let row = null; // of tabs; another one is a page made anew
  let wanted = ''; // the tab to go back to
  let found = 0;

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
      wanted = location.hash.slice(1);
      found = 0;
    }
    const target = tabs.find((tab) => nameOf(tab) === wanted);
    if (found < SETTLED && target) {
      found = isChosen(target) ? found + 1 : 0;
      if (!found) target.click();
      return;
    }
    const chosen = nameOf(tabs.find(isChosen));
    if (chosen && location.hash !== `#${chosen}`) remember(chosen);
  }, 200);
})();
