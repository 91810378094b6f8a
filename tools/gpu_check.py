"""Check the device kernels on a GPU, with PyTorch and nvcc: python tools/gpu_check.py --output gpu.md"""

import sys

from ppreplk.cli import main

if __name__ == "__main__":
    sys.exit(main(["gpu_check", *sys.argv[1:]], prog="python tools/gpu_check.py"))
