"""Learners, one per file, each readable alone; `conf/algorithm/<name>.yaml` names the class by `_target_`."""
