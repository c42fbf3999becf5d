//! [how it works]: how_it_works
//! [choosing]: choosing
//! [correctness]: correctness
//! [recipes]: recipes
//! [operations]: operations
//! [moving]: moving
//! [testing]: testing
//! [compatibility]: compatibility
//! [FAQ]: faq
//! [architecture]: https://github.com/redlatch/redlatch/blob/main/docs/ARCHITECTURE.md
//! [README]: https://github.com/redlatch/redlatch#readme
//!
#![doc = include_str!("../docs/README.md")]

// Compiled for documentation and its tests alone, so that the guide reads as a book and its examples are tested.

/// Where the chapters' links lead to in the crate's documentation. Of two definitions of a link the first counts:
/// those at the ends of the files are for readers of the repository.
macro_rules! clients {
    () => {
        concat!(
            "[guide]: crate::guide\n",
            "[how it works]: crate::guide::how_it_works\n",
            "[choosing]: crate::guide::choosing\n",
            "[correctness]: crate::guide::correctness\n",
            "[recipes]: crate::guide::recipes\n",
            "[operations]: crate::guide::operations\n",
            "[moving]: crate::guide::moving\n",
            "[testing]: crate::guide::testing\n",
            "[compatibility]: crate::guide::compatibility\n",
            "[FAQ]: crate::guide::faq\n",
            "[rights]: https://github.com/redlatch/redlatch#what-redis-needs-to-allow\n",
            "[cluster]: https://github.com/redlatch/redlatch#cluster-and-sentinel\n",
            "[cancel]: https://github.com/redlatch/redlatch#cancel-safety\n",
            "[bench]: https://github.com/redlatch/redlatch#how-fast-it-is\n",
            "[README]: https://github.com/redlatch/redlatch#readme\n",
            "[examples]: https://github.com/redlatch/redlatch/tree/main/examples\n",
        )
    };
}

macro_rules! chapters {
    ($($name:ident $file:literal)+) => {$(
        #[doc = clients!()]
        #[doc = ""]
        #[doc = include_str!(concat!("../docs/", $file))]
        pub mod $name {}
    )+};
}

// `ARCHITECTURE.md` is for those who change the crate, and no chapter.
chapters! {
    how_it_works "how-it-works.md"
    choosing "choosing.md"
    correctness "correctness.md"
    recipes "recipes.md"
    operations "operations.md"
    moving "moving.md"
    testing "testing.md"
    compatibility "compatibility.md"
    faq "faq.md"
}
