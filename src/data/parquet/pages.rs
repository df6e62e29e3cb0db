//! The pages of a flat column, looked at before a decoder takes memory for what they state.
//!
//! The decoders of the `parquet` crate make room for every entry of a dictionary and every length of a delta-encoded page
//! that a header states, whether they are there or not; a damaged header can ask for more than any machine has, and a
//! failed allocation ends the program.

use parquet::basic::Encoding;
use parquet::column::page::{Page, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};

/// Pages of which none states more values than the row group has rows.
pub(super) struct Checked {
    pages: Box<dyn PageReader>,
    /// Rows of the row group.
    rows: i64,
    /// Whether values may be null, so that a data page begins with levels.
    has_levels: bool,
}

impl Checked {
    pub(super) fn new(pages: Box<dyn PageReader>, rows: i64, nesting: i16) -> Self {
        Self { pages, rows, has_levels: nesting > 0 }
    }

    fn check(&self, page: Page) -> Result<Page> {
        let values = page.num_values();
        if i64::from(values) > self.rows {
            let why = format!("a page of {values} values in a row group of {} rows", self.rows);
            return Err(ParquetError::General(why));
        }
        match page.encoding() {
            // Two lists of lengths, where the second begins only the decoder knows.
            Encoding::DELTA_BYTE_ARRAY => Err(ParquetError::NYI(
                "texts with common beginnings (DELTA_BYTE_ARRAY); write the file with plain or dictionary encoding"
                    .to_owned(),
            )),
            Encoding::DELTA_LENGTH_BYTE_ARRAY
                if self.lengths(&page).is_none_or(|stated| stated > u64::from(values)) =>
            {
                Err(ParquetError::General(format!("more lengths than the {values} of its page")))
            }
            _ => Ok(page),
        }
    }

    /// How many lengths a page of delta-encoded lengths states: the third number of its data.
    fn lengths(&self, page: &Page) -> Option<u64> {
        let buffer = page.buffer();
        let levels = match page {
            Page::DataPageV2 { def_levels_byte_len, rep_levels_byte_len, .. } => {
                u64::from(*def_levels_byte_len) + u64::from(*rep_levels_byte_len)
            }
            _ if self.has_levels => 4 + u64::from(u32::from_le_bytes(*buffer.first_chunk()?)),
            _ => 0,
        };
        let mut data = buffer.get(usize::try_from(levels).ok()?..)?.iter();
        // Bytes of seven bits, the lowest first.
        let mut number = || {
            let mut value = 0u64;
            for place in 0..9 {
                let byte = data.next()?;
                value |= u64::from(byte & 0x7f) << (7 * place);
                if byte & 0x80 == 0 {
                    return Some(value);
                }
            }
            None
        };
        let (_block, _miniblocks) = (number()?, number()?);
        number()
    }
}

impl PageReader for Checked {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        self.pages.get_next_page()?.map(|page| self.check(page)).transpose()
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }
}

impl Iterator for Checked {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::VecDeque;

    struct Given(VecDeque<Page>);

    impl PageReader for Given {
        fn get_next_page(&mut self) -> Result<Option<Page>> {
            Ok(self.0.pop_front())
        }
        fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
            Ok(None)
        }
        fn skip_next_page(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Iterator for Given {
        type Item = Result<Page>;
        fn next(&mut self) -> Option<Self::Item> {
            self.get_next_page().transpose()
        }
    }

    fn passes(page: Page, nesting: i16) -> bool {
        let given = Box::new(Given([page].into()));
        Checked::new(given, 100, nesting).get_next_page().is_ok_and(|page| page.is_some())
    }

    fn data(bytes: &[u8], num_values: u32, encoding: Encoding) -> Page {
        Page::DataPage {
            buf: bytes.to_vec().into(),
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        }
    }

    #[test]
    fn no_page_states_more_than_the_rows_of_its_group() {
        let dictionary = |num_values| Page::DictionaryPage {
            buf: vec![0; 8].into(),
            num_values,
            encoding: Encoding::PLAIN,
            is_sorted: false,
        };
        assert!(passes(dictionary(100), 2) && !passes(dictionary(101), 2));
        assert!(!passes(dictionary(u32::MAX), 2));
        assert!(passes(data(&[], 100, Encoding::PLAIN), 0));
        assert!(!passes(data(&[], 101, Encoding::PLAIN), 0));
    }

    #[test]
    fn delta_encoded_lengths_are_as_many_as_the_page_has_values() {
        // Blocks of 128 in 4 parts, then the count: 3, 5, 2^40; behind no levels and behind two bytes of them.
        let counts: [(&[u8], bool); 4] = [
            (&[3], true),
            (&[5], false),
            (&[0x80, 0x80, 0x80, 0x80, 0x80, 0x20], false),
            (&[], false),
        ];
        for (count, expected) in counts {
            let bytes = [&[0x80, 1, 4], count].concat();
            let encoding = Encoding::DELTA_LENGTH_BYTE_ARRAY;
            assert_eq!(passes(data(&bytes, 4, encoding), 0), expected, "{count:?}");
            let behind = [&[2, 0, 0, 0, 9, 9], bytes.as_slice()].concat();
            assert_eq!(passes(data(&behind, 4, encoding), 2), expected, "{count:?}");
            let second = Page::DataPageV2 {
                buf: [&[9, 9, 9], bytes.as_slice()].concat().into(),
                num_values: 4,
                encoding,
                num_nulls: 0,
                num_rows: 4,
                def_levels_byte_len: 3,
                rep_levels_byte_len: 0,
                is_compressed: false,
                statistics: None,
            };
            assert_eq!(passes(second, 2), expected, "{count:?}");
        }
        assert!(!passes(data(&[0x80, 1, 4, 3], 4, Encoding::DELTA_BYTE_ARRAY), 0));
    }
}
