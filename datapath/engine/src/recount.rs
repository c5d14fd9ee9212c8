//! Counting a pool's tables again, from their pages: whether the references and live bytes that they record are exact.
//!
//! Drives [`Audit`] over the tables as they are; it changes nothing.

use crate::error::ChangeError;
use crate::pool::Pool;
use caisson_tables::{Audit, Finding};
use caisson_task::Port;

/// Ids whose references are counted in one pass over the map pages.
const WINDOW: usize = 1 << 20;

impl Pool {
    /// Counts references and live bytes again. What differs from what is recorded is given; for a pool that nobody uses
    /// meanwhile.
    ///
    /// # Errors
    /// [`ChangeError::Lost`] when a page of the tables cannot be read.
    pub async fn recount(&self, port: &Port) -> Result<Vec<Finding>, ChangeError> {
        let mut audit = Audit::new(&self.0.lock().tables, WINDOW);
        let mut findings = Vec::new();
        loop {
            let step = self.0.with(port, |state| audit.step(&mut state.tables, &mut findings)).await;
            if !step.map_err(|_| ChangeError::Lost)? {
                return Ok(findings);
            }
            port.pause().await;
        }
    }
}
