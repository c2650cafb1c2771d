//! Reading: built-in values, file, environment, flags.

use figment::{
    Figment, Provider,
    providers::{Env, Format, Serialized, Toml},
};

use crate::{
    Error, Flags, Origin, Settings,
    error::{PREFIX, SEPARATOR, explain, wrong_value},
    flags::SetField,
};

/// Variables that begin as ours and are no settings: `MILLSTREAM_CONFIG` names the file, the others
/// belong to tests.
fn is_setting(name: &str) -> bool {
    let lower = name.to_ascii_lowercase();
    lower != "config" && !lower.starts_with("test_")
}

impl Settings {
    /// Reads and checks the settings: those built in, then the file, the environment and the flags.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn load(built_in: &Settings, flags: &Flags) -> Result<Self, Error> {
        let environment = Env::prefixed(PREFIX)
            .filter(|name| is_setting(name.as_str()))
            .split(SEPARATOR);
        Self::load_from(built_in, environment, flags)
    }

    fn load_from(
        built_in: &Settings,
        environment: impl Provider,
        flags: &Flags,
    ) -> Result<Self, Error> {
        let mut sources = Figment::from(Serialized::defaults(built_in));
        if let Some(file) = &flags.config {
            let unreadable = |reason: String| Error::File {
                file: file.clone(),
                reason,
            };
            let text = std::fs::read_to_string(file).map_err(|e| unreadable(e.to_string()))?;
            // Read as a table of anything first: what is no TOML at all has no field to name.
            Toml::from_str::<figment::value::Dict>(&text).map_err(|e| unreadable(e.to_string()))?;
            sources = sources.merge(Toml::file_exact(file));
        }
        sources = sources.merge(environment).merge(flags);
        for text in &flags.set {
            let set = SetField::parse(text).ok_or_else(|| Error::Value {
                field: "--set".to_owned(),
                value: text.clone(),
                allowed: "FIELD=VALUE".to_owned(),
                origin: Origin::Flag("--set".to_owned()),
            })?;
            sources = sources.merge(set);
        }
        let settings: Self = sources.extract().map_err(|e| explain(&sources, &e))?;
        let mut first = None;
        settings.check(&mut |field, allowed| {
            first.get_or_insert_with(|| wrong_value(&sources, field, allowed));
        });
        first.map_or(Ok(settings), Err)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, path::Path};

    use figment::value::{Dict, Map, Value};

    use super::*;
    use crate::{GroupProtocol, Role, Size, Time};

    /// Stands for variables of the environment, which tests that run side by side cannot set.
    struct Variables(&'static [(&'static str, &'static str)]);

    impl Provider for Variables {
        fn metadata(&self) -> figment::Metadata {
            figment::Metadata::named("environment variable(s)")
        }
        fn data(&self) -> figment::Result<Map<figment::Profile, Dict>> {
            let mut all = Dict::new();
            for (name, value) in self.0 {
                let name = name.to_lowercase();
                let value = Value::from(*value);
                match name.split_once(SEPARATOR) {
                    Some((table, field)) => all.insert(
                        table.to_owned(),
                        Value::from(Dict::from([(field.to_owned(), value)])),
                    ),
                    None => all.insert(name, value),
                };
            }
            Ok(figment::Profile::Default.collect(all))
        }
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn flags(config: Option<&Path>) -> Flags {
        Flags {
            config: config.map(Path::to_owned),
            ..Flags::default()
        }
    }

    #[track_caller]
    fn refused(
        text: &str,
        variables: &'static [(&'static str, &'static str)],
        flags: Flags,
    ) -> String {
        let file = file(text);
        let flags = Flags {
            config: Some(file.path().to_owned()),
            ..flags
        };
        let loaded = Settings::load_from(&Settings::default(), Variables(variables), &flags);
        let error = loaded.expect_err("wrong").to_string();
        error.replace(&file.path().display().to_string(), "shop.toml")
    }

    #[test]
    fn later_sources_win() {
        let file = file(
            "data_dir = '/srv/a'\nroles = ['door', 'sink']\n[streams]\nthreads = 2\n\
             memory_budget = '1GiB'\n[kafka.properties]\n'security.protocol' = 'ssl'\n",
        );
        let flags = Flags {
            data_dir: Some("/srv/c".into()),
            set: vec![
                "payment.deadline=5s".into(),
                "kafka.group_protocol=consumer".into(),
            ],
            ..flags(Some(file.path()))
        };
        let variables = Variables(&[
            ("DATA_DIR", "/srv/b"),
            ("SHOP__TIME_ZONE", "Europe/Berlin"),
            ("ROLES", "door"),
        ]);
        let settings =
            Settings::load_from(&Settings::default(), variables, &flags).expect("all is well");
        assert_eq!(settings.data_dir, Path::new("/srv/c"));
        assert_eq!(settings.streams.threads, 2);
        assert_eq!(settings.shop.time_zone, "Europe/Berlin");
        assert_eq!(settings.streams.memory_budget, Size::from_mib(1024));
        assert!(settings.roles.has(Role::Door) && !settings.roles.has(Role::Sink));
        assert_eq!(settings.payment.deadline, Time::from_secs(5));
        assert_eq!(settings.kafka.properties["security.protocol"], "ssl");
        assert_eq!(settings.kafka.group_protocol, GroupProtocol::Consumer);
        assert_eq!(settings.database(), "sqlite:///srv/c/shop.db");
    }

    #[test]
    fn the_built_in_settings_are_legal() {
        let settings = Settings::load(&Settings::default(), &Flags::default());
        assert_eq!(settings.expect("legal"), Settings::default());
    }

    #[test]
    fn an_error_names_field_value_what_is_allowed_and_the_source() {
        let none: &[_] = &[];
        assert_eq!(
            refused("[streams]\ncommit_interval = 100\n", none, Flags::default()),
            "streams.commit_interval is wrong. value=`100`, allowed: a time such as 100ms, 30s, \
             15m, 24h or 7d, from: file shop.toml"
        );
        assert_eq!(
            refused("", &[("STREAMS__MEMORY_BUDGET", "1MB")], Flags::default()),
            "streams.memory_budget is wrong. value=`1MB`, allowed: a size such as 512KiB, 256MiB \
             or 2GiB, from: environment variable MILLSTREAM_STREAMS__MEMORY_BUDGET"
        );
        let open = Flags {
            listen: Some("0.0.0.0:8080".into()),
            ..Flags::default()
        };
        let error = refused("", none, open);
        assert!(
            error.starts_with("listen is wrong. value=`0.0.0.0:8080`"),
            "{error}"
        );
        assert!(error.ends_with("from: flag --listen"), "{error}");
        assert_eq!(
            refused("[shop]\nzone = 'UTC'\n", none, Flags::default()),
            "there is no such field. field=`shop.zone`, allowed: partitions, time_zone, \
             from: file shop.toml"
        );
        let set = Flags {
            set: vec!["payment.call_timeout=90s".into()],
            ..Flags::default()
        };
        assert_eq!(
            refused("", none, set),
            "payment.call_timeout is wrong. value=`90s`, allowed: 10ms to 1m, \
             from: flag --set payment.call_timeout"
        );
    }

    #[test]
    fn a_misspelt_variable_is_refused() {
        let error = refused("", &[("STREAMS__THREAD", "3")], Flags::default());
        assert!(error.contains("field=`streams.thread`"), "{error}");
        assert!(
            error.ends_with("environment variable MILLSTREAM_STREAMS__THREAD"),
            "{error}"
        );
    }

    #[test]
    fn a_password_is_not_repeated() {
        let url = Flags {
            database_url: Some("pg://u:secret@h/db".into()),
            ..Flags::default()
        };
        let error = refused("", &[], url);
        assert!(
            error.contains("pg://***@h/db") && !error.contains("secret"),
            "{error}"
        );
    }

    #[test]
    fn a_file_that_is_missing_or_no_toml_is_named() {
        let missing = flags(Some(Path::new("no-such-file.toml")));
        let error = Settings::load(&Settings::default(), &missing).expect_err("missing");
        assert!(error.to_string().contains("no-such-file.toml"), "{error}");
        let error = refused("threads = = 2", &[], Flags::default());
        assert!(error.contains("shop.toml"), "{error}");
    }
}
