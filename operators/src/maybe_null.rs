//! `MaybeNull`: a type, or an `Option` of it.

/// A `T`, or an `Option<T>` whose `None` is Kafka's null.
///
/// Joins take both: whether a null is dropped and counted, or joined with nothing, is the rule of
/// the join, and only a stream whose type can be null has any.
#[diagnostic::on_unimplemented(
    message = "a join needs `{T}` or `Option<{T}>`, but the stream has `{Self}`",
    note = "both sides of a join have keys of one type, so `rekey` one of them; a buffer has the \
            type of its stream"
)]
pub trait MaybeNull<T>: Clone + 'static {
    /// The value, unless it is null.
    fn present(self) -> Option<T>;
    /// The value, unless it is null.
    fn as_present(&self) -> Option<&T>;
    /// A value that is not null.
    fn of(value: T) -> Self;
    /// Null, where there is one.
    fn null() -> Option<Self>;
}

impl<T: Clone + 'static> MaybeNull<T> for T {
    fn present(self) -> Option<T> {
        Some(self)
    }
    fn as_present(&self) -> Option<&T> {
        Some(self)
    }
    fn of(value: T) -> Self {
        value
    }
    fn null() -> Option<Self> {
        None
    }
}

impl<T: Clone + 'static> MaybeNull<T> for Option<T> {
    fn present(self) -> Option<T> {
        self
    }
    fn as_present(&self) -> Option<&T> {
        self.as_ref()
    }
    fn of(value: T) -> Self {
        Some(value)
    }
    fn null() -> Option<Self> {
        Some(None)
    }
}
