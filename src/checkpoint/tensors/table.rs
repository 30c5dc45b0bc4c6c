//! Names with values, held in little more memory than the names take: a hostile file may have millions of short ones.

/// A sorted table.
pub(in crate::checkpoint) struct Table<T> {
    /// All names, one behind the other.
    names: String,
    entries: Vec<Entry<T>>,
}

struct Entry<T> {
    start: u32,
    len: u32,
    value: T,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { names: String::new(), entries: vec![] }
    }
}

impl<T> Table<T> {
    /// Adds a name, in any order; [`Self::sorted`] comes before any other use. The first 4 GiB of names fit; the rest
    /// is refused with the name.
    pub(in crate::checkpoint) fn push(&mut self, name: &str, value: T) -> Result<(), String> {
        let place = (u32::try_from(self.names.len()), u32::try_from(name.len()));
        let (Ok(start), Ok(len)) = place else { return Err(name.into()) };
        self.names.push_str(name);
        self.entries.push(Entry { start, len, value });
        Ok(())
    }

    /// Sorts the names, of which no two may be alike; returns one that is there twice.
    pub(in crate::checkpoint) fn sorted(mut self) -> Result<Self, String> {
        let names = &self.names;
        self.entries.sort_unstable_by(|a, b| name(names, a).cmp(name(names, b)));
        let alike =
            self.entries.windows(2).find(|two| name(names, &two[0]) == name(names, &two[1]));
        match alike {
            Some(two) => Err(name(names, &two[0]).into()),
            None => Ok(self),
        }
    }

    pub(in crate::checkpoint) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(in crate::checkpoint) fn get(&self, wanted: &str) -> Option<&T> {
        let found = self.entries.binary_search_by(|entry| name(&self.names, entry).cmp(wanted));
        found.ok().map(|at| &self.entries[at].value)
    }

    /// All of them, in the order of their names.
    pub(in crate::checkpoint) fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        self.entries.iter().map(|entry| (name(&self.names, entry), &entry.value))
    }
}

fn name<'a, T>(names: &'a str, entry: &Entry<T>) -> &'a str {
    let start = entry.start as usize;
    &names[start..start + entry.len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(names: &[&str]) -> Result<Table<usize>, String> {
        let mut table = Table::default();
        names.iter().enumerate().try_for_each(|(i, name)| table.push(name, i))?;
        table.sorted()
    }

    #[test]
    fn names_are_found_in_order_and_once() {
        let names = ["b", "", "ü", "a.b", "ab"];
        let all = table(&names).unwrap();
        for (i, name) in names.iter().enumerate() {
            assert_eq!(all.get(name), Some(&i));
        }
        assert_eq!((all.get("c"), all.len()), (None, 5));
        assert_eq!(
            all.iter().map(|(name, _)| name).collect::<Vec<_>>(),
            ["", "a.b", "ab", "b", "ü"]
        );
        assert_eq!(table(&["b", "a", "b"]).err(), Some("b".to_string()));
    }
}
