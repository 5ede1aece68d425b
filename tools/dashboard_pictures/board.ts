// What a dashboard's JSON must be: Grafana's own types, with the words of their enums as JSON writes them, with the
// options of each kind of panel, and with what the Prometheus data source keeps in an annotation.
import type { AnnotationQuery, Dashboard, FieldConfig, GraphFieldConfig, Panel, RowPanel, TableFieldOptions } from '@grafana/schema';
import type { Options as BarGauge } from '@grafana/schema/dist/esm/raw/composable/bargauge/panelcfg/x/BarGaugePanelCfg_types.gen';
import type { Options as Stat } from '@grafana/schema/dist/esm/raw/composable/stat/panelcfg/x/StatPanelCfg_types.gen';
import type { Options as Table } from '@grafana/schema/dist/esm/raw/composable/table/panelcfg/x/TablePanelCfg_types.gen';
import type { Options as Text } from '@grafana/schema/dist/esm/raw/composable/text/panelcfg/x/TextPanelCfg_types.gen';
import type { Options as TimeSeries } from '@grafana/schema/dist/esm/raw/composable/timeseries/panelcfg/x/TimeSeriesPanelCfg_types.gen';

type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Kind<Type, Options, Custom = never> = Omit<Panel, 'type' | 'options' | 'fieldConfig'> & {
  type: Type;
  options: Partial<Options>;
  fieldConfig?: { defaults: Omit<FieldConfig, 'custom'> & { custom?: Partial<Custom> }; overrides: NonNullable<Panel['fieldConfig']>['overrides'] };
};
type OurPanel =
  | Kind<'timeseries', TimeSeries, GraphFieldConfig>
  | Kind<'stat', Stat>
  | Kind<'bargauge', BarGauge>
  | Kind<'table', Table, TableFieldOptions>
  | Kind<'text', Text>;

type Annotation = AnnotationQuery & {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  useValueForTime: boolean;
};

export type Board = Json<
  Omit<Dashboard, 'annotations' | 'panels'> & {
    annotations: { list: Annotation[] };
    panels: (OurPanel | (Omit<RowPanel, 'panels'> & { panels: OurPanel[] }))[];
  }
>;
