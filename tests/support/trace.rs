//! A subscriber that keeps what it is told.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry;

/// Everything traced on this thread while it lives.
pub(crate) struct Trace {
    records: Arc<Mutex<Vec<Record>>>,
    _default: tracing::subscriber::DefaultGuard,
}

/// One span or event and its fields.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    id: Option<u64>,
    pub(crate) name: String,
    pub(crate) level: String,
    pub(crate) fields: BTreeMap<String, String>,
}

impl Trace {
    pub(crate) fn start() -> Self {
        let records = Arc::default();
        let layer = Capture(Arc::clone(&records));
        let subscriber = registry().with(layer);
        let default = tracing::subscriber::set_default(subscriber);
        Self { records, _default: default }
    }

    pub(crate) fn spans(&self) -> Vec<Record> {
        let records = lock(&self.records);
        records.iter().filter(|record| record.id.is_some()).cloned().collect()
    }

    pub(crate) fn events(&self) -> Vec<Record> {
        let records = lock(&self.records);
        records.iter().filter(|record| record.id.is_none()).cloned().collect()
    }

    /// The crate's own spans with this word in their name.
    pub(crate) fn spans_named(&self, word: &str) -> Vec<Record> {
        let spans = self.spans().into_iter();
        spans.filter(|span| span.name.contains(word)).collect()
    }

    /// All that was traced, as text.
    pub(crate) fn text(&self) -> String {
        format!("{:?}", lock(&self.records))
    }
}

struct Capture(Arc<Mutex<Vec<Record>>>);

impl<S: Subscriber> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let metadata = attributes.metadata();
        lock(&self.0).push(Record {
            id: Some(id.into_u64()),
            name: metadata.name().to_owned(),
            level: metadata.level().to_string(),
            fields: fields.0,
        });
    }

    fn on_record(&self, id: &Id, values: &Values<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let mut records = lock(&self.0);
        let own = |record: &&mut Record| record.id == Some(id.into_u64());
        if let Some(span) = records.iter_mut().rev().find(own) {
            span.fields.append(&mut fields.0);
        }
    }

    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        lock(&self.0).push(Record {
            id: None,
            name: event.metadata().target().to_owned(),
            level: event.metadata().level().to_string(),
            fields: fields.0,
        });
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }
}

fn lock(records: &Mutex<Vec<Record>>) -> MutexGuard<'_, Vec<Record>> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}
