"""Load generators and reports: what the figures in bench/README.md were made with."""
