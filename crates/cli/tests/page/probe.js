'use strict';
const seen = { plots: {}, contrasts: [], problems: [] };

// Plots: by keyboard to every stop, and by mouse to one.
const content = plot => {
  const readout = plot.querySelector('.readout');
  if (readout.hidden) return null;
  const pairs = [...readout.querySelectorAll('div')].map(row => [...row.children].map(c => c.textContent));
  return Object.fromEntries(pairs);
};
for (const plot of document.querySelectorAll('.plot')) {
  const svg = plot.querySelector('svg');
  const key = name => plot.dispatchEvent(new KeyboardEvent('keydown', { key: name, bubbles: true }));
  const stops = plot.dataset.stops.split(' ').map(Number);
  plot.focus();
  if (document.activeElement !== plot) seen.problems.push(`${plot.dataset.table} takes no focus`);
  key('Home');
  const readouts = [content(plot)];
  for (let i = 1; i < stops.length; i++) {
    key('ArrowRight');
    readouts.push(content(plot));
  }
  key('Escape');
  const hidden = content(plot) === null;
  plot.scrollIntoView();
  const pointed = stops.length >> 1;
  const box = svg.getBoundingClientRect();
  const scale = box.width / svg.viewBox.baseVal.width;
  const place = stops[pointed] * scale;
  const at = plot.dataset.axis === 'y' ? [box.left + 30, box.top + place] : [box.left + place, box.top + 30];
  plot.dispatchEvent(new PointerEvent('pointermove', { clientX: at[0], clientY: at[1], bubbles: true }));
  const marks = [...svg.querySelectorAll('.dot,.bar,.line,.cell')].filter(mark => {
    const area = mark.getBBox();
    const [left, top, right, bottom] = plot.dataset.area.split(' ').map(Number);
    const inside = area.x >= left - 8 && area.y >= top - 8 && area.x + area.width <= right + 8 && area.y + area.height <= bottom + 8;
    return inside && area.width + area.height > 0;
  });
  seen.plots[plot.dataset.table.slice(6)] = { readouts, hidden, pointed, pointer: content(plot), marks: marks.length };
  plot.dispatchEvent(new PointerEvent('pointerleave'));
}

// Contrast of every piece of text on what lies behind it.
const colour = text => {
  const numbers = text.match(/[\d.]+/g).map(Number);
  const unit = text.startsWith('color(') ? 1 : 255;
  return { rgb: numbers.slice(0, 3).map(n => n / unit), alpha: numbers.length > 3 ? numbers[3] : 1 };
};
const ground = element => {
  for (let e = element; e; e = e.parentElement) {
    const own = colour(getComputedStyle(e).backgroundColor);
    if (own.alpha > 0) {
      const below = own.alpha < 1 ? ground(e.parentElement) : own.rgb;
      return own.rgb.map((c, i) => c * own.alpha + below[i] * (1 - own.alpha));
    }
  }
  return [1, 1, 1];
};
const luminance = rgb => {
  const [r, g, b] = rgb.map(c => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
for (const details of document.querySelectorAll('details')) details.open = true;
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  const text = walker.currentNode.textContent.trim();
  if (!text || element.closest('script,style,title,desc,.skip,[hidden]')) continue;
  const style = getComputedStyle(element);
  const ink = luminance(colour(element.closest('svg') ? style.fill : style.color).rgb);
  const back = luminance(ground(element));
  const contrast = (Math.max(ink, back) + 0.05) / (Math.min(ink, back) + 0.05);
  seen.contrasts.push([contrast, text.slice(0, 30)]);
}
for (const details of document.querySelectorAll('details')) details.open = false;

// Labels and structure.
const ids = [...document.querySelectorAll('[id]')].map(e => e.id);
if (new Set(ids).size !== ids.length) seen.problems.push('an id occurs twice');
for (const e of document.querySelectorAll('[aria-labelledby]')) {
  const named = e.getAttribute('aria-labelledby').split(' ').every(id => document.getElementById(id)?.textContent);
  if (!named) seen.problems.push(`${e.tagName} has no name`);
}
for (const e of document.querySelectorAll('svg')) {
  if (e.getAttribute('role') !== 'img' || !e.querySelector('title') || !e.querySelector('desc')?.textContent) {
    seen.problems.push('a picture without words');
  }
}
for (const e of document.querySelectorAll('[tabindex]')) {
  if (!e.getAttribute('aria-label')) seen.problems.push('focus without a label');
}
for (const table of document.querySelectorAll('table')) {
  const columns = table.tHead.rows[0].cells.length;
  const scoped = [...table.querySelectorAll('th')].every(th => th.scope);
  if (!table.caption || !scoped || [...table.tBodies[0].rows].some(row => row.cells.length !== columns)) {
    seen.problems.push(`${table.id} is no proper table`);
  }
}
for (const link of document.querySelectorAll('a')) {
  if (!document.getElementById(link.getAttribute('href').slice(1))) seen.problems.push(`${link.href} leads nowhere`);
}
const levels = [...document.querySelectorAll('h1,h2,h3')].map(h => Number(h.tagName[1]));
if (levels[0] !== 1 || levels.some((level, i) => i && level - levels[i - 1] > 1)) seen.problems.push('headings skip a level');
if (!document.documentElement.lang || !document.title) seen.problems.push('no language or title');
const count = name => document.querySelectorAll(name).length;
seen.landmarks = Object.fromEntries(['header', 'nav', 'main', 'footer', 'h1'].map(name => [name, count(name)]));
seen.dark = matchMedia('(prefers-color-scheme: dark)').matches;
seen.width = document.documentElement.clientWidth;
seen.scroll_width = document.documentElement.scrollWidth;

// What should not be there.
seen.pwned = window.pwned ?? null;
seen.scripts = count('script');
const known = new Set(['IMG', 'IFRAME', 'OBJECT', 'EMBED', 'LINK', 'FORM', 'VIDEO', 'AUDIO']);
seen.foreign = [...document.querySelectorAll('*')].filter(e => known.has(e.tagName) || [...e.attributes].some(a => a.name.startsWith('on'))).map(e => e.outerHTML.slice(0, 80));
seen.text = document.querySelector('main').textContent;

const result = document.createElement('pre');
result.id = 'probe';
result.textContent = JSON.stringify(seen);
document.body.append(result);
