"""Makes what the chart carries and nobody writes by hand: Prometheus rules and Grafana dashboards."""
