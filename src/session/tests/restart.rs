//! What the disk has, and what the next daemon makes of it.

use super::*;
