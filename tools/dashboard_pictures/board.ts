// What a dashboard's JSON must be: Grafana's own type, with the words of its enums as JSON writes them, and what the
// Prometheus data source keeps in an annotation.
import type { AnnotationQuery, Dashboard } from '@grafana/schema';

type Json<T> = T extends string ? `${T}` : T extends object ? { [K in keyof T]: Json<T[K]> } : T;

type Annotation = AnnotationQuery & {
  expr: string;
  step: string;
  titleFormat: string;
  textFormat: string;
  tagKeys: string;
  useValueForTime: boolean;
};

export type Board = Json<Omit<Dashboard, 'annotations'> & { annotations: { list: Annotation[] } }>;
