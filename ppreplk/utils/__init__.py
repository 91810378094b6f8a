"""What every room uses: errors, output files, logging, the device, processes, tables and figures."""
