"""Results that lm-evaluation-harness has written: figures of tasks, and the samples behind them."""
