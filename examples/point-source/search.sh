#!/bin/sh
# The whole search, from blind to unblinded. Small enough for a laptop; with a cluster that is up
# (`dask-runner up`) all of it runs there, with larger numbers.
#
#     python make_samples.py . && ./search.sh
#
# Each step is a run with a label; what it says is printed, pictures are left in this folder.
set -eu
: "${BACKGROUND:=20000}" "${SIGNAL:=1000}" "${NSIDE:=64}" "${SKIES:=30}"
: "${SIGNAL_DECS:=-60,-30,-5,0,15,30,60}"
: "${DECS:=-80,-60,-45,-30,-20,-10,-5,0,5,10,20,30,45,60,80}"
run="${DASK_RUNNER:-dask-runner}"

last() { $run runs --json | python3 -c 'import json,sys; print(json.load(sys.stdin)["runs"][-1]["timestamp"])'; }

# Background trials turn a test statistic into a p-value, declination by declination.
$run trials --model point-source --config search.toml --grid "dec=$DECS" -n "$BACKGROUND" \
    --label background -q
background=$(last)
$run distribution "$background" --fit scale --plot-parameters parameters.png > distributions.txt

# What flux would be seen: sensitivity and discovery potential.
$run trials --model point-source --config search.toml --grid "dec=$SIGNAL_DECS" \
    --grid n_sig=0,0.5,1,2,3,5,8,12,18,26 -n "$SIGNAL" -n "n_sig=0:$BACKGROUND" --label signal -q
$run sensitivity --fit scale --plot sensitivity.png --plot-flux flux.png

# With an index that is fitted, a chi2 describes the background only with a free scale.
# The hottest spot of scrambled skies: how hot is hot?
$run skyscan --config search.toml --nside "$NSIDE" -n "$SKIES" --background "$background" \
    --fit scale --label skies -q
skies=$(last)
$run hottest "$skies"

# At the very end, the sky as it is. The reason is recorded.
$run skyscan --config search.toml --nside "$NSIDE" --background "$background" \
    --fit scale --unblind "all checks are done" --label observed -q
observed=$(last)
$run skymap "$observed" --plot skymap.png --plot-p ts_p.png --to skymap.fits
$run hottest "$skies" --observed "$observed" --plot hottest.png
