"""From records to laws: pure functions on tidy tables, and four small doors (hparams, laws, plan, report)."""
