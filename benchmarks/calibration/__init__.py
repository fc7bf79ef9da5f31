# SPDX-License-Identifier: Apache-2.0
"""How often calibration on the embedded model certifies a setting whose risk is above the limit."""
