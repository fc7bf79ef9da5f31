# SPDX-License-Identifier: Apache-2.0
"""Everything tokenprune raises on purpose.

Each message says what was given, what was expected and what to do about it.
"""


class TokenPruneError(Exception):
    """Base of every error raised on purpose by tokenprune and its plugins."""


class UnknownNameError(TokenPruneError, LookupError):
    """A scorer, selector, reducer, method or signal was asked for by a name nobody offers."""


class PluginError(TokenPruneError):
    """A plugin cannot be used: its import failed, a hook is misspelt, or it delivers the wrong thing."""


class PluginConflictError(PluginError):
    """Two plugins offer the same name."""


class OptionError(TokenPruneError, TypeError):
    """A strategy was given an option it does not have, or a combination of arguments that contradict."""


class BudgetError(TokenPruneError, ValueError):
    """The number or the share of tokens to keep is not usable."""


class InputError(TokenPruneError, ValueError):
    """Rows or scores are not finite or do not fit, a model does not load, or an argument cannot be used."""


class UnsupportedModelError(TokenPruneError, TypeError):
    """No adapter knows the model, or more than one claims it."""


class IncompatibleError(TokenPruneError, ValueError):
    """Strategy, stage and model do not go together."""


class AlreadyPrunedError(TokenPruneError, RuntimeError):
    """The model is already pruned."""


class UnsupportedCallError(TokenPruneError, RuntimeError):
    """One call of a pruned model cannot be honoured; raised before the vision tower runs."""


class StaleCacheError(TokenPruneError, RuntimeError):
    """A key-value cache filled by a pruned model is used after the pruning was removed."""


class ReceiptError(TokenPruneError, RuntimeError):
    """A pruned call did not do what was planned: what was stored or returned has another length.

    The installed model library works differently from those that were tested. The answer is not to be used.
    """


class UntestedVersionWarning(UserWarning):
    """A model library is installed in a version outside of the tested range."""
