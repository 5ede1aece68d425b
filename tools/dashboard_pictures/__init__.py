"""Pictures of the boards, drawn with Grafana's own components, and their check against Grafana's types."""
