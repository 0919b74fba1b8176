"""Python imports this file before all else in every process of a warm run, and it hands a job's script over at once.

It could happen later, but by then Snakemake's preamble has imported Snakemake, which takes longer than the hand-over.
This folder is on `PYTHONPATH` where the Snakefile puts it there, in runs with `warm_start: true`.
"""

import os
import sys

if len(sys.orig_argv) == 2 and os.path.join(".snakemake", "scripts", "") in sys.orig_argv[1]:
    from palimpsest.pipeline import warm

    sys.argv = sys.orig_argv[1:]
    warm.hand_over()
