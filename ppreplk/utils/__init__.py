"""What every room uses: errors, whole-file replacement, logging, device, tables, figures."""
