"""python run_fake.py FOLDER MARKS SECONDS WORKERS [ADDRESS]: the small sweep, to be killed."""

import sys

from fake_sampler import FakeSource, small_sweep

from smoothed_energy.sweeps import run

if __name__ == "__main__":
    out, marks, seconds, workers, *address = sys.argv[1:]
    source = FakeSource(marks, slow=float(seconds))
    address = address[0] if address else None
    run(small_sweep(), out, workers=int(workers), batch_size=1, source=source, ray=address)
