"""Passes, one after the other, verified: the contract, pipelines, judgement and reports."""
