//! Client of Quorate.
