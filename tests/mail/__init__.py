"""Tests of the policy floor."""
