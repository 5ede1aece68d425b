// Draws one dashboard with Grafana's own components, from data that its queries were answered with (draw.py).
// What it shows: queries, units, legends, colors, layout. What it does not: menus, tooltips, links.
import React from 'react';
import { createRoot } from 'react-dom/client';
import * as D from '@grafana/data';
import * as U from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import '@fontsource/inter/700.css';

const { board, answers, marks, values, from, to, step, width } = window.PICTURE;
const theme = D.createTheme({ colors: { mode: 'dark' } });
const zone = 'utc';
const range = { from: D.dateTime(from), to: D.dateTime(to), raw: { from: D.dateTime(from), to: D.dateTime(to) } };
const [CELL, GAP] = [38, 8];
const filled = (text) => text.replace(/\$\{?(\w+)\}?/g, (whole, name) => values[name] ?? whole);
const used = Object.values(D.standardTransformers).filter(({ id }) => JSON.stringify(board).includes(`"id":"${id}"`));
D.standardTransformersRegistry.setInit(() => used.map((each) => ({ id: each.id, name: each.name, transformation: async () => each })));

// --- Data: from Prometheus' answers to frames, with the panel's transformations, defaults and overrides

const time = (at, more) => ({ name: 'Time', type: D.FieldType.time, values: at, config: {}, ...more });

function curve(target, { metric, values: points }) {
  const legend = target.legendFormat === '__auto' ? undefined
    : target.legendFormat.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, name) => metric[name] ?? '');
  return D.toDataFrame({ refId: target.refId, fields: [
    time(points.map(([at]) => at * 1000), { config: { interval: step * 1000 } }),
    { name: 'Value', type: D.FieldType.number, labels: metric, values: points.map(([, value]) => Number(value)),
      config: { displayNameFromDS: legend || undefined } } ] });
}

function rows(panel, target, series) {
  const labels = [...new Set(series.flatMap(({ metric }) => Object.keys(metric)))].sort();
  return D.toDataFrame({ refId: target.refId, fields: [
    time(series.map(({ values: points }) => points[0][0] * 1000)),
    ...labels.map((name) => ({ name, type: D.FieldType.string, config: {}, values: series.map(({ metric }) => metric[name] ?? '') })),
    { name: panel.targets.length > 1 ? `Value #${target.refId}` : 'Value', type: D.FieldType.number, config: {},
      values: series.map(({ values: points }) => Number(points[0][1])) } ] });
}

function options(panel) {
  const { defaults, overrides } = panel.fieldConfig;
  const ids = new Set([...Object.keys(defaults), ...Object.keys(defaults.custom ?? {}).map((name) => `custom.${name}`),
    ...overrides.flatMap(({ properties }) => properties.map(({ id }) => id))]);
  return new D.FieldConfigOptionsRegistry(() => [...ids].filter((id) => id !== 'custom').map((id) => ({
    id, name: id, path: id.replace(/^custom\./, ''), isCustom: id.startsWith('custom.'), process: (value) => value, shouldApply: () => true })));
}

function useFrames(panel) {
  const [frames, set] = React.useState(null);
  React.useEffect(() => {
    const raw = panel.targets.flatMap((target) => {
      const series = answers[`${panel.title} ${target.refId}`];
      if (!series.length) return [];
      return target.format === 'table' ? [rows(panel, target, series)] : series.map((each) => curve(target, each));
    });
    const done = D.transformDataFrame(panel.transformations ?? [], raw).subscribe((data) => {
      const looks = { fieldConfig: panel.fieldConfig, fieldConfigRegistry: options(panel), replaceVariables: filled, theme, timeZone: zone };
      const ready = D.applyFieldOverrides({ data, ...looks });
      D.cacheFieldDisplayNames(ready);
      set(ready);
    });
    return () => done.unsubscribe();
  }, [panel]);
  return frames;
}

// --- Panels

function Marks({ config }) {
  React.useLayoutEffect(() => config.addHook('draw', (u) => {
    const { ctx, bbox: { left, top, width: wide, height } } = u;
    ctx.save();
    ctx.beginPath(); ctx.rect(left, top, wide, height); ctx.clip();
    for (const { color, begin, end } of marks) {
      const [a, b] = [begin, end].map((at) => u.valToPos(at, 'x', true));
      ctx.strokeStyle = ctx.fillStyle = theme.visualization.getColorByName(color);
      ctx.lineWidth = 2; ctx.setLineDash([6, 6]); ctx.globalAlpha = 0.9;
      ctx.beginPath(); ctx.moveTo(a, top); ctx.lineTo(a, top + height); ctx.stroke();
      ctx.globalAlpha = 0.1; ctx.fillRect(a, top, b - a, height);
    }
    ctx.restore();
  }), [config]);
  return null;
}

function Bars({ panel, shown, w, h }) {
  const factors = D.getDisplayValueAlignmentFactors(shown);
  const each = Math.min(panel.options.maxVizHeight, (h - 6 * (shown.length - 1)) / shown.length);
  return shown.map(({ display, field, view, colIndex }, i) => <div key={i} style={{ marginBottom: 6 }}>
    <U.BarGauge width={w} height={each} theme={theme} orientation="horizontal" displayMode={panel.options.displayMode} value={display}
      field={field} display={view?.getFieldDisplayProcessor(colIndex)} alignmentFactors={factors} itemSpacing={6} showUnfilled
      valueDisplayMode={panel.options.valueMode} namePlacement={panel.options.namePlacement} text={panel.options.text} /></div>);
}

function Stats({ panel, shown, w, h }) {
  const { colorMode, graphMode, justifyMode, textMode } = panel.options;
  return <div style={{ display: 'flex', gap: 4 }}>{shown.map(({ display, sparkline }, i) =>
    <U.BigValue key={i} width={w / shown.length - 4} height={h} theme={theme} value={display} sparkline={graphMode === 'none' ? undefined : sparkline}
      colorMode={colorMode} graphMode={graphMode} justifyMode={justifyMode} textMode={textMode} />)}</div>;
}

function Body({ panel, w, h }) {
  const frames = useFrames(panel);
  if (!frames) return null;
  const empty = !frames.some(({ length }) => length);
  const shown = () => D.getFieldDisplayValues({ data: frames, fieldConfig: panel.fieldConfig, reduceOptions: panel.options.reduceOptions,
    replaceVariables: filled, theme, timeZone: zone, sparkline: true });
  if (panel.type === 'stat') return <Stats panel={panel} shown={shown()} w={w} h={h} />;
  if (empty) return <div className="empty">{panel.fieldConfig.defaults.noValue ?? 'No data'}</div>;
  if (panel.type === 'bargauge') return <Bars panel={panel} shown={shown()} w={w} h={h} />;
  if (panel.type === 'table') return <TableNG data={frames[0]} width={w} height={h} cellHeight={panel.options.cellHeight} timeRange={range}
    fieldConfig={panel.fieldConfig} sortBy={panel.options.sortBy} structureRev={1} />;
  return <U.TimeSeries frames={frames} width={w} height={h} timeRange={range} timeZone={zone} legend={panel.options.legend}>
    {(config) => <Marks config={config} />}</U.TimeSeries>;
}

function Panel({ panel }) {
  const { x, y, w, h } = panel.gridPos;
  const [wide, high] = [w * width / 24 - GAP, h * CELL - GAP];
  const place = { position: 'absolute', left: x * width / 24 + GAP / 2, top: y * CELL };
  if (panel.type === 'row') return <div className="heading" style={place}>{panel.title}{panel.collapsed && ' …'}</div>;
  return <div style={{ ...place, width: wide, height: high }}>
    <U.PanelChrome title={panel.title} description={panel.description} width={wide} height={high} padding="md">
      {(inner, below) => panel.type === 'text'
        ? <div className="markdown-html" dangerouslySetInnerHTML={{ __html: D.renderMarkdown(filled(panel.options.content)) }} />
        : <Body panel={panel} w={inner} h={below} />}
    </U.PanelChrome></div>;
}

function Page() {
  const chosen = board.templating.list.map(({ name, label }) => [label, name === 'datasource' ? 'default' : values[name] === '.+' ? 'All' : values[name].replace(/^\((.*)\)$/, '$1')]);
  const clock = (at) => D.dateTimeFormat(at, { timeZone: zone, format: 'YYYY-MM-DD HH:mm' });
  return <>
    <div className="top"><h3>{board.title}</h3>
      {chosen.map(([label, value]) => <span key={label} className="choice"><b>{label}</b>{value}</span>)}
      <span className="clock">{clock(from)} to {clock(to)} UTC</span></div>
    <div style={{ position: 'relative' }}>{board.panels.map((panel) => <Panel key={panel.id} panel={panel} />)}</div></>;
}

const say = (error) => document.body.insertAdjacentHTML('afterbegin', `<pre class="error">${error?.stack ?? error}</pre>`);
window.addEventListener('error', ({ error }) => say(error));
window.addEventListener('unhandledrejection', ({ reason }) => say(reason));
// Texts are measured before they are drawn: in the font that they will have.
Promise.all([400, 500, 700].map((weight) => document.fonts.load(`${weight} 14px Inter`))).then(() =>
  createRoot(document.getElementById('root')).render(
    <D.ThemeContext.Provider value={theme}><U.GlobalStyles /><U.PortalContainer /><Page /></D.ThemeContext.Provider>));
