//! Which scale an element of a weight has.

/// Scales for blocks of matrices that lie one below the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::checkpoint) struct Grid {
    /// Rows of each matrix.
    rows: usize,
    /// Rows and columns of a block; those at the end of a matrix may have fewer.
    block: [usize; 2],
    /// Scales of each matrix, by rows and columns.
    scales: [usize; 2],
}

impl Grid {
    /// The grid of a weight by the shape of its scales: one for all, one for each row of a matrix (`[rows]` or
    /// `[rows, 1]`), or for blocks, of one of these sizes if there are any, else of those that divide the matrix. In
    /// front of rows and columns both may have a number of matrices.
    pub(in crate::checkpoint) fn new(
        weight: &[usize],
        scales: &[usize],
        blocks: &[[usize; 2]],
    ) -> Result<Self, String> {
        let (&[.., rows, columns], 1..) = (weight, weight.iter().product::<usize>()) else {
            return Err(format!("it has shape {weight:?} and is no matrix"));
        };
        let (before, count) = (&weight[..weight.len() - 2], scales.iter().product::<usize>());
        if count == 1 {
            let rows = weight.iter().product::<usize>() / columns;
            return Ok(Self { rows, block: [rows, columns], scales: [1, 1] });
        }
        let own = match scales {
            [all] if before.is_empty() => Some([*all, 1]),
            [others @ .., down, across] if others == before => Some([*down, *across]),
            _ => None,
        };
        let own = own.filter(|own| own.iter().all(|&n| n > 0));
        let fits = |[down, across]: [usize; 2], block: [usize; 2]| {
            rows.div_ceil(block[0]) == down && columns.div_ceil(block[1]) == across
        };
        let divided = own.filter(|[down, across]| rows % down == 0 && columns % across == 0);
        let block = match (own, divided) {
            (Some(scales), _) if scales == [rows, 1] => Some((scales, [1, columns])),
            (Some(scales), _) if !blocks.is_empty() => {
                // A block that is larger than the matrix is as good as one of its size.
                let mut fitting = blocks.iter().filter(|&&block| fits(scales, block));
                let cut = |&[down, across]: &[usize; 2]| [down.min(rows), across.min(columns)];
                let block = fitting.next().map(cut);
                if let (Some(block), Some(other)) =
                    (block, fitting.map(cut).find(|b| Some(*b) != block))
                {
                    return Err(format!(
                        "its scales are {:?}, and config.json has two sizes of blocks that fit, {block:?} and {other:?}",
                        scales
                    ));
                }
                block.map(|block| (scales, block))
            }
            (_, Some(scales)) => Some((scales, [rows / scales[0], columns / scales[1]])),
            _ => None,
        };
        let block = block.map(|(scales, block)| Self { rows, block, scales });
        block.ok_or_else(|| {
            let asked: Vec<_> = blocks.iter().map(|block| format!("{block:?}")).collect();
            let asked = match asked.len() {
                0 => String::new(),
                _ => format!(", and config.json says blocks of {}", asked.join(" or ")),
            };
            format!(
                "its scales have shape {scales:?}, which does not fit its own, {weight:?}{asked}"
            )
        })
    }

    /// Whether every row of the one matrix has scales of its own.
    pub(in crate::checkpoint) fn is_by_row(&self, rows: usize) -> bool {
        self.rows == rows && self.scales[0] == rows
    }

    /// How many scales a row of blocks has.
    pub(in crate::checkpoint) fn width(&self) -> usize {
        self.scales[1]
    }

    /// How many columns have one scale.
    pub(super) fn columns(&self) -> usize {
        self.block[1]
    }

    /// The row of blocks that a row is in, counted over all matrices.
    pub(super) fn row(&self, row: usize) -> usize {
        row / self.rows * self.scales[0] + row % self.rows / self.block[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_fit_their_weights() {
        let grid = |weight: &[usize], scales: &[usize], blocks: &[[usize; 2]]| {
            Grid::new(weight, scales, blocks).map(|grid| (grid.block, grid.scales))
        };
        for scales in [&[][..], &[1], &[1, 1]] {
            assert_eq!(grid(&[6, 8], scales, &[]), Ok(([6, 8], [1, 1])));
        }
        for scales in [&[6][..], &[6, 1]] {
            assert_eq!(grid(&[6, 8], scales, &[[1, 4]]), Ok(([1, 8], [6, 1])));
        }
        assert_eq!(grid(&[6, 8], &[6, 2], &[]), Ok(([1, 4], [6, 2])));
        // By the config's blocks the last ones are smaller; by division none are.
        assert_eq!(grid(&[192, 200], &[2, 2], &[[128, 128]]), Ok(([128, 128], [2, 2])));
        assert_eq!(grid(&[192, 200], &[2, 2], &[]), Ok(([96, 100], [2, 2])));
        assert_eq!(grid(&[64, 200], &[1, 2], &[[128, 128]]), Ok(([64, 128], [1, 2])));
        assert_eq!(grid(&[64, 8], &[1, 2], &[[128, 4], [99, 4]]), Ok(([64, 4], [1, 2])));
        assert!(grid(&[64, 9], &[1, 2], &[[64, 5], [64, 6]]).unwrap_err().contains("two sizes"));
        for (weight, scales, blocks) in [
            (&[6, 8][..], &[6, 3][..], &[][..]),
            (&[6, 8], &[8], &[]),
            (&[6, 8], &[0], &[]),
            (&[6, 8], &[0, 1], &[]),
            (&[6, 8], &[3, 2], &[[6, 8]]),
            (&[6, 8], &[7, 1], &[]),
            (&[6, 8], &[1, 6, 1], &[]),
            (&[2, 6, 8], &[6, 1], &[]),
            (&[8], &[8], &[]),
            (&[0, 8], &[1], &[]),
        ] {
            assert!(grid(weight, scales, blocks).is_err(), "{weight:?} {scales:?}");
        }
        // Matrices one below the other.
        let of_two = Grid::new(&[2, 5, 8], &[2, 2, 1], &[[3, 8]]).unwrap();
        let rows: Vec<_> = (0..10).map(|row| of_two.row(row)).collect();
        assert_eq!(rows, [0, 0, 0, 1, 1, 2, 2, 2, 3, 3]);
        let of_all = Grid::new(&[2, 5, 8], &[1], &[]).unwrap();
        assert!((0..10).all(|row| of_all.row(row) == 0));
    }
}
