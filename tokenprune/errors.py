# SPDX-License-Identifier: Apache-2.0
"""Exceptions and warnings of tokenprune and its plugins.

Each message says what was given, what was expected and what to do about it.
"""


class TokenPruneError(Exception):
    """Base class of the exceptions of tokenprune and its plugins."""


class UnknownNameError(TokenPruneError, LookupError):
    """No plugin provides a scorer, selector, reducer, method or adapter of this name."""


class PluginError(TokenPruneError):
    """A plugin cannot be used: its import failed, a hook is misspelt, or it returned a wrong value."""


class PluginConflictError(PluginError):
    """Two plugins provide the same name."""


class OptionError(TokenPruneError, TypeError):
    """An option does not exist or has the wrong type, or arguments contradict each other."""


class BudgetError(TokenPruneError, ValueError):
    """The number or the share of tokens to keep is invalid."""


class InputError(TokenPruneError, ValueError):
    """Rows or scores are not finite or do not match, a model does not load, or an argument is invalid."""


class UnsupportedModelError(TokenPruneError, TypeError):
    """No adapter supports the model, or more than one claims it."""


class IncompatibleError(TokenPruneError, ValueError):
    """Strategy, stage and model cannot be combined."""


class AlreadyPrunedError(TokenPruneError, RuntimeError):
    """The model is already pruned."""


class UnsupportedCallError(TokenPruneError, RuntimeError):
    """A call of a pruned model is not supported; raised before the vision tower runs."""


class StaleCacheError(TokenPruneError, RuntimeError):
    """A key-value cache filled by a pruned model is used after the pruning was removed."""


class ReceiptError(TokenPruneError, RuntimeError):
    """A pruned call stored or returned a different number of rows than planned.

    The installed model library behaves differently from the tested versions. Do not use the output.
    """


class UntestedVersionWarning(UserWarning):
    """The installed version of a model library is outside the tested range."""
