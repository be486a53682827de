"""Statistics of trials: pure functions on arrays. Refuses to know files, runs and trials.

| module | what it answers |
|---|---|
| `pvalues` | significance, counted p-values with their interval, many looks |
| `quantiles`, `bootstrap` | quantiles and any other statistic of trials, with errors |
| `distribution`, `discrete` | p-values and thresholds of a test statistic, each with its source |
| `sensitivity` | which signal passes a threshold how often |
| `limits` | bands, cross sections, mass limits |
| `counting` | counting experiments, exactly |
| `hypotest` | CLs and limits from trials with and without signal |
| `forecast` | how many trials it takes, and how long |
| `spectrum` | limits on a resonance in a falling spectrum |

`arrays`, `chi2_fit` and `curves` serve these.
"""
