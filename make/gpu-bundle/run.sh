#!/usr/bin/env bash
# Verifies the HBM tier on this machine's GPU in less than 10 minutes: checks, figures, a
# memory checker if there is one, and a stand-in worker if there is PyTorch.
#   ./run.sh [FOLDER]     the report goes there (default: report)
# Exit status: 0 all good; 1 a check failed; 3 a figure missed its bar; 4 no GPU was found.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-report}
mkdir -p "$out"
bench=$here/kvtier-bench

# What the figures are of.
nvidia-smi --query-gpu=name,uuid,driver_version,pcie.link.gen.current,pcie.link.gen.max,pcie.link.width.current,clocks.sm,clocks.mem \
  --format=csv > "$out/nvidia-smi.csv" 2>&1 || true

# First the checks and figures: what follows is slower and says less.
status=0
timeout 240 "$bench" gpu --out "$out" 2>&1 | tee "$out/gpu.log" || status=${PIPESTATUS[0]}
if ((status == 4)); then
  exit 4
fi
if ((status != 0)); then
  echo "run.sh: the checks and figures ended with $status"
fi

sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2> /dev/null | head -n 1 || true)
if [[ -n $sanitizer ]]; then
  # Errors the tier expects and handles are answers of the driver, not accesses: --report-api-errors no.
  sanitized=0
  timeout 150 "$sanitizer" --tool memcheck --report-api-errors no --error-exitcode 9 \
    "$bench" gpu --checks-only --out "$out/sanitized" > "$out/sanitizer.log" 2>&1 || sanitized=$?
  tail -n 3 "$out/sanitizer.log"
  echo "compute-sanitizer: exit status $sanitized" | tee -a "$out/sanitizer.log"
  ((sanitized == 0)) || status=1
else
  echo "run.sh: no compute-sanitizer here; memory accesses were not checked"
fi

if python3 -c 'import torch, transformers, sys; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
  stood=0
  timeout 70 python3 "$here/standin_worker.py" "$bench" > "$out/standin.log" 2>&1 || stood=$?
  tail -n 5 "$out/standin.log"
  ((stood == 0)) || status=1
  # The same through the daemon: worker and daemon are killed in between.
  stood=0
  PYTHONPATH=$here/python timeout 120 python3 "$here/standin_worker.py" "$here/kvtierd" --daemon > "$out/standin-daemon.log" 2>&1 || stood=$?
  tail -n 5 "$out/standin-daemon.log"
  ((stood == 0)) || status=1
else
  echo "run.sh: no PyTorch with a GPU here; the stand-in worker was not run"
fi
exit "$status"
