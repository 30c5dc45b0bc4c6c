'use strict';
// A plot is a view of the table beneath it: the cursor stops where the table has a row.
for (const plot of document.querySelectorAll('.plot')) {
  const svg = plot.querySelector('svg');
  const readout = plot.querySelector('.readout');
  const table = document.getElementById(plot.dataset.table);
  const heads = [...table.tHead.rows[0].cells].map(cell => cell.textContent);
  const rows = table.tBodies[0].rows;
  const stops = plot.dataset.stops.split(' ').map(Number);
  const [left, top, right, bottom] = plot.dataset.area.split(' ').map(Number);
  const vertical = plot.dataset.axis === 'y';
  const cursor = document.createElementNS(svg.namespaceURI, 'path');
  cursor.setAttribute('class', 'cursor');
  let at = -1;

  const line = (name, value) => {
    const row = document.createElement('div');
    for (const text of [name, value]) {
      const span = document.createElement('span');
      span.textContent = text;
      row.append(span);
    }
    return row;
  };

  const hide = () => {
    at = -1;
    readout.hidden = true;
    cursor.remove();
  };

  const show = index => {
    at = Math.max(0, Math.min(stops.length - 1, index));
    const cells = [...rows[at].cells].map(cell => cell.textContent);
    const title = document.createElement('p');
    title.textContent = `${heads[0]} ${cells[0]}`.trim();
    const lines = cells.slice(1).map((cell, i) => [heads[i + 1], cell]).filter(pair => pair[1]);
    readout.replaceChildren(title, ...lines.map(pair => line(...pair)));
    readout.hidden = false;
    const place = stops[at];
    cursor.setAttribute('d', vertical ? `M${left} ${place}H${right}` : `M${place} ${top}V${bottom}`);
    svg.append(cursor);
    const scale = svg.clientWidth / svg.viewBox.baseVal.width;
    const x = (vertical ? right - 8 : place) * scale;
    const beyond = x + 16 + readout.offsetWidth > svg.clientWidth;
    readout.style.left = `${Math.max(0, beyond ? x - readout.offsetWidth - 14 : x + 14)}px`;
    const y = vertical ? place * scale + 12 : top * scale + 6;
    readout.style.top = `${Math.max(0, Math.min(y, svg.clientHeight - readout.offsetHeight))}px`;
  };

  plot.addEventListener('pointermove', event => {
    const box = svg.getBoundingClientRect();
    const scale = svg.viewBox.baseVal.width / box.width;
    const place = (vertical ? event.clientY - box.top : event.clientX - box.left) * scale;
    let nearest = 0;
    stops.forEach((stop, i) => {
      if (Math.abs(stop - place) < Math.abs(stops[nearest] - place)) nearest = i;
    });
    if (nearest !== at) show(nearest);
  });
  plot.addEventListener('pointerleave', hide);
  plot.addEventListener('blur', hide);
  plot.addEventListener('keydown', event => {
    const step = event.shiftKey ? 10 : 1;
    const next = {
      ArrowRight: at + step, ArrowDown: at + step, ArrowLeft: at - step, ArrowUp: at - step,
      Home: 0, End: stops.length - 1,
    }[event.key];
    if (event.key === 'Escape') hide();
    if (next === undefined) return;
    event.preventDefault();
    show(next);
  });
}
document.documentElement.dataset.ready = '';
