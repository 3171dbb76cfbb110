//! Takes erased records out of the files.
//!
//! Reads leave them out already (see [`crate::Reader`]), so there is no haste and no moment at which all files must
//! change together: each file is written anew without them under a name of its own, a manifest puts it in the place
//! of the former, and that one is deleted when nobody who began before can read it any more. A kill leaves files
//! that no manifest lists, which the next start removes, and the rest of the work to be done again.

use lambic_model::{Erased, StreamId};
use object_store::{Error as StoreError, ObjectStoreExt as _};

use crate::{
    Dataset, Error, Manifest,
    dataset::{Kind, Part, directory, kind_of},
};

impl Dataset {
    /// How many of the stream's files hold records of `erased`.
    pub fn files_to_rewrite(&self, stream: StreamId, erased: &Erased) -> u64 {
        let manifest = self.manifest(stream);
        let files = manifest.files.iter();
        files.filter(|file| file.holds(erased) > 0).count() as u64
    }

    /// Writes one of these files anew, without the records; false if there is none.
    pub async fn rewrite_next(&self, stream: StreamId, erased: &Erased) -> Result<bool, Error> {
        let part = self.part(stream)?;
        let mut undecided = self.turn(&part).await?;
        loop {
            match self.rewrite_once(&part, erased, &mut undecided).await {
                Err(error) => self.again_after(&part, &mut undecided, error).await?,
                rewritten => return rewritten,
            }
        }
    }

    async fn rewrite_once(
        &self,
        part: &Part,
        erased: &Erased,
        undecided: &mut Vec<Manifest>,
    ) -> Result<bool, Error> {
        let manifest = self.present(part.stream.id)?;
        let Some(file) = manifest.files.iter().find(|file| file.holds(erased) > 0) else {
            return Ok(false);
        };
        let sealed = self.rewritten(part, vec![file.clone()], erased).await?;
        let new = self.put_file(part, &manifest, sealed).await?;
        self.commit(part, manifest.replaced(new), undecided).await?;
        Ok(true)
    }

    /// Deletes the stream's files that were replaced, as far as nobody reads them any more; returns how many are left.
    pub async fn remove_replaced(&self, stream: StreamId) -> Result<usize, Error> {
        let part = self.part(stream)?;
        let undecided = self.turn(&part).await?;
        let manifest = self.present(stream)?;
        let mut left = 0;
        for object in self.objects(directory(&part.stream)).await? {
            let path = object.location.as_ref();
            if manifest.lists(path)
                || kind_of(&part.stream, &object.location, &manifest) != Kind::Replaced
            {
                continue;
            }
            // A manifest whose end is not known may yet be the newest.
            if part.is_held(path) || undecided.iter().any(|next| next.lists(path)) {
                left += 1;
                continue;
            }
            match self.store().delete(&object.location).await {
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(left)
    }
}
