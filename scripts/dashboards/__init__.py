"""The Grafana dashboards as code; `scripts/generate_dashboards.py` writes them as JSON."""
